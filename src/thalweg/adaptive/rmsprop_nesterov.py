"""RMSProp with Nesterov momentum (section 8.5.2)."""

from dataclasses import replace
from inspect import cleandoc

from thalweg.adaptive.rmsprop import rms_scaled
from thalweg.basic.nesterov import nesterov

rmsprop_nesterov = replace(
    rms_scaled(nesterov),
    name="rmsprop_nesterov",
    doc=cleandoc("""
        RMSProp with Nesterov momentum (Algorithm 8.6): the velocity gathers gradients scaled by their own size.

        As in `nesterov`, theta is the book's look-ahead point theta + momentum * v with v = -lr * velocity, the same
        trajectory while lr and momentum stay the same. alpha is the book's rho; eps, which the book leaves out here,
        is added to the root as in `rmsprop`.

        >>> rmsprop_nesterov(2.0, 4.0, 1.0, lr=0.5, momentum=0.5, eps=0.0)
        (-0.875, 4.0, 1.5)
    """),
)
