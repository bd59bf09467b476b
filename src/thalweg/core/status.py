"""How a method that looks for a minimum ends, or that it goes on: every end has a name."""

from __future__ import annotations

from enum import IntEnum

from thalweg.core.rule import Start


class Status(IntEnum):
    """What a rule that sees f remembers as its `status`, and what `minimize` returns; SciPy's numbers where it has any.

    >>> Status.LINE_SEARCH_FAILED, Status.LINE_SEARCH_FAILED.message
    (<Status.LINE_SEARCH_FAILED: 2>, 'the line search found no lower point: a wrong gradient, or a kink')
    """

    GOING_ON = -1
    CONVERGED = 0
    ITERATIONS = 1
    LINE_SEARCH_FAILED = 2
    NOT_FINITE = 3
    UNBOUNDED = 4
    RADIUS_COLLAPSED = 5
    SADDLE = 6
    EVALUATIONS = 7
    STOPPED = 99

    @property
    def message(self) -> str:
        """It in words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.GOING_ON: "it goes on",
    Status.CONVERGED: "converged",
    Status.ITERATIONS: "the iterations given were used up before it converged",
    Status.LINE_SEARCH_FAILED: "the line search found no lower point: a wrong gradient, or a kink",
    Status.NOT_FINITE: "the objective or its gradient is not a finite number",
    Status.UNBOUNDED: "the objective falls without a bound",
    Status.RADIUS_COLLAPSED: "the trust region shrank to nothing: its model does not agree with the objective",
    Status.SADDLE: "converged to a saddle: the gradient is zero, and there is a direction of negative curvature",
    Status.EVALUATIONS: "the evaluations given were used up before it converged",
    Status.STOPPED: "the callback raised StopIteration",
}

going = Start("going", lambda theta, knobs: int(Status.GOING_ON), scalar=True)
