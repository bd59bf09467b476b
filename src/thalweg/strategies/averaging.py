"""Averages of the parameters along the trajectory (section 8.7.3); `Rule.answer` gives the average."""

from thalweg.core.rule import clock, combinator, current, maximum, where


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


@combinator(answers=lambda theta, memory, knobs: memory["average"])
def averaged_late(
    inner, theta, average=current, n=clock, since=clock, counted=clock, *, average_from=0, average_every=1
):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of every average_every-th theta, from some step on.

    The mean is over the thetas after average_from + average_every steps, average_every later, and so on, `counted` of
    them; until then the answer is the theta after average_from steps. With the defaults it is `averaged`.

    >>> from thalweg import sgd
    >>> averaged_late(sgd, average_from=100).knobs
    {'lr': 0.01, 'average_from': 100, 'average_every': 1}
    """
    delta = inner()
    n = n + 1
    late = n > average_from
    since = where(late, since + 1, 0)
    due = since >= average_every
    counted = where(due, counted + 1, counted)
    since = where(due, 0, since)
    moved = theta + delta
    mean = average + (moved - average) / maximum(counted, 1)
    average = where(due, mean, where(late, average, moved))
    return delta, average, n, since, counted
