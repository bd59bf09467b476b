"""Rprop (after section 8.5)."""

from thalweg.core.rule import full, maximum, minimum, rule, sign, where, zeros


@rule
def rprop(
    g, previous=zeros, step_size=full("lr"), *, lr=0.01, eta_minus=0.5, eta_plus=1.2, step_min=1e-6, step_max=50.0
):
    """Rprop without backtracking (Igel and Huesken 2000): a step_size for each parameter, which only signs change.

    It grows by eta_plus while the gradient keeps its sign; where the sign turns it shrinks by eta_minus, and that
    parameter rests for a step (previous is then 0), as in PyTorch; Riedmiller and Braun (1993) take the last step back
    instead, which no knob gives. lr is the first step_size only: a schedule of it does nothing. For full batches.

    >>> rprop(2.0, 1.0, 0.5), rprop(-2.0, 1.0, 0.5)
    ((-0.6, 2.0, 0.6), (0.0, 0.0, 0.25))
    """
    agreement = g * previous
    step_size = where(agreement > 0, eta_plus * step_size, where(agreement < 0, eta_minus * step_size, step_size))
    step_size = minimum(maximum(step_size, step_min), step_max)
    g = where(agreement < 0, 0.0, g)
    return -sign(g) * step_size, g, step_size
