"""Averages of the parameters along the trajectory (section 8.7.3); `Rule.answer` gives the average."""

from thalweg.core.rule import clock, combinator, current


@combinator(answers=lambda theta, memory, knobs: memory["average"])
def averaged(inner, theta, average=current, n=clock):
    """Polyak averaging (section 8.7.3): the mean of theta over all n steps so far, the start not counted.

    >>> from thalweg import sgd
    >>> averaged(sgd).remembers
    {'average': current, 'n': clock}
    """
    delta = inner()
    n = n + 1
    average = average + (theta + delta - average) / n
    return delta, average, n


@combinator(answers=lambda theta, memory, knobs: memory["average"])
def averaged_exponentially(inner, theta, average=current, n=clock, *, ema_decay=0.999):
    """Exponential averaging (section 8.7.3): a mean of theta in which a step counts ema_decay times the next one.

    The weights of the n steps so far sum to 1 from the first step on, the start not counted: nothing to correct.

    >>> from thalweg import sgd
    >>> averaged_exponentially(sgd, ema_decay=0.9).knobs
    {'lr': 0.01, 'ema_decay': 0.9}
    """
    delta = inner()
    n = n + 1
    average = average + (1 - ema_decay) / (1 - ema_decay**n) * (theta + delta - average)
    return delta, average, n
