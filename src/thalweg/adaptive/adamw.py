"""AdamW (after section 8.5.3)."""

from dataclasses import replace

from thalweg.adaptive.adam import adam
from thalweg.strategies.decay import decayed

adamw = replace(
    decayed(adam, weight_decay=0.01),
    name="adamw",
    doc="AdamW (Loshchilov and Hutter 2019): Adam, with weight decay that its second moments do not scale.",
)
