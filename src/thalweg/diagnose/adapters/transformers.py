"""The monitor as a callback of Hugging Face's Trainer (section 8.2): `Trainer(..., callbacks=[Watch()])`.

A `TrainerCallback` is not told of batches and losses: a hook on the model hears them.
"""

from __future__ import annotations

from transformers import TrainerCallback  # type: ignore[import-not-found, unused-ignore]

from thalweg.diagnose.adapters.listening import Listening


class Watch(Listening, TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Makes a `Monitor` when training starts, with the settings that are given, and tells it of every step."""
