"""Adadelta (after section 8.5.2)."""

from thalweg.core.rule import rule, sqrt, zeros


@rule
def adadelta(g, r=zeros, u=zeros, *, lr=1.0, rho=0.9, eps=1e-6):
    """Adadelta (Zeiler 2012): RMSProp whose step has the units of theta, for it is scaled by the last steps' size.

    r and u are the moving averages of squared gradients and squared steps. As in the paper eps is inside both roots,
    and lr, which the paper does not have, is 1; Keras has 0.001 there.

    >>> adadelta(1.0, 0.0, 0.25, lr=2.0, rho=0.75, eps=0.75)
    (-2.0, 0.25, 0.4375)
    """
    r = rho * r + (1 - rho) * g * g
    step = sqrt(u + eps) / sqrt(r + eps) * g
    u = rho * u + (1 - rho) * step * step
    return -lr * step, r, u
