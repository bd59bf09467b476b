"""RMSProp, centred (after section 8.5.2)."""

from dataclasses import replace
from inspect import cleandoc

from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.core.rule import combinator, maximum, sqrt, zeros


@combinator
def centred_rms_scaled(inner, g, r=zeros, mean=zeros, *, alpha=0.99, eps=1e-8):
    """Gradients divided by their standard deviation (Graves 2013), for any rule; r - mean**2 is their variance.

    As in PyTorch eps is added to the root; Graves has 1e-4 inside it. A variance that rounding made negative counts
    as 0, where PyTorch gives NaN.

    >>> centred_rms_scaled(sgd)(2.0, 6.0, 0.0, lr=0.5, alpha=0.5, eps=0.0)
    (-0.5, 5.0, 1.0)
    """
    r = alpha * r + (1 - alpha) * g * g
    mean = alpha * mean + (1 - alpha) * g
    variance = (sqrt(r) - mean) * (sqrt(r) + mean)  # r - mean**2, but finite where mean**2 is not
    return inner(g=g / (sqrt(maximum(variance, 0.0)) + eps)), r, mean


rmsprop_centred = replace(
    centred_rms_scaled(sgd),
    name="rmsprop_centred",
    doc=cleandoc("""
        RMSProp, centred (Graves 2013): the gradient is divided by its standard deviation, not by its size.

        It is SGD with gradients `centred_rms_scaled`, and PyTorch's RMSprop(centered=True).

        >>> rmsprop_centred(2.0, 6.0, 0.0, lr=0.5, alpha=0.5, eps=0.0)
        (-0.5, 5.0, 1.0)
    """),
)

rmsprop_centred_momentum = replace(
    centred_rms_scaled(momentum),
    name="rmsprop_centred_momentum",
    doc="RMSProp, centred (Graves 2013), with momentum: PyTorch's RMSprop(centered=True) with a momentum.",
)
