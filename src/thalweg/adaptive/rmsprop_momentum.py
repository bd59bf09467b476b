"""RMSProp with momentum (after section 8.5.2)."""

from dataclasses import replace
from inspect import cleandoc

from thalweg.adaptive.rmsprop import rms_scaled
from thalweg.basic.momentum import momentum

rmsprop_momentum = replace(
    rms_scaled(momentum),
    name="rmsprop_momentum",
    doc=cleandoc("""
        RMSProp with momentum (Tieleman and Hinton 2012): the velocity gathers gradients scaled by their own size.

        As in PyTorch lr multiplies the velocity when it moves theta. TensorFlow and Keras gather lr times the scaled
        gradient instead, the same trajectory while lr stays the same.

        >>> rmsprop_momentum(2.0, 4.0, 1.0, lr=0.5, momentum=0.5, eps=0.0)
        (-0.75, 4.0, 1.5)
    """),
)
