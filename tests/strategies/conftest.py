import pytest


@pytest.fixture
def run():
    """A function: all the points that a rule visits after theta, one for each gradient, and its last memory."""

    def points(rule, theta, gradients, **knobs):
        knobs = rule.with_defaults(knobs)
        memory, visited = rule.start(theta, **knobs), []
        for g in gradients:
            delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
            theta = theta + delta
            visited.append(theta)
        return visited, memory

    return points
