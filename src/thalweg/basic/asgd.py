"""Averaged stochastic gradient descent (after section 8.7.3)."""

from thalweg.core.rule import clock, current, maximum, number, one, rule, where


@rule(answers=lambda theta, memory, knobs: memory["ax"])
def asgd(g, theta, t=clock, eta=number("lr"), mu=one, ax=current, *, lr=0.01, lambd=1e-4, alpha=0.75, t0=1e6):
    """Averaged SGD (Polyak and Juditsky 1992): SGD with a decaying step eta, whose answer ax is the mean of theta.

    As in PyTorch, eta is lr / (1 + lambd * lr * t)**alpha, theta is pulled to 0 with strength lambd, and the mean is
    that of the steps after the first t0 + 1 (t0=-1 means all), theta itself until then. eta and the mean's weight mu
    are those that the step before left, so a schedule of lr acts a step late. The mean around any rule is `averaged`.

    >>> asgd(2.0, 1.0, 0, 0.5, 1.0, 1.0, lr=0.5, lambd=0.0)
    (-1.0, 1, 0.5, 1.0, 0.0)
    """
    t = t + 1
    delta = -eta * (lambd * theta + g)
    after = theta + delta
    ax = where(mu == 1, after, ax + mu * (after - ax))
    eta = lr / (1 + lambd * lr * t) ** alpha
    mu = 1 / maximum(1.0, t - t0)
    return delta, t, eta, mu, ax
