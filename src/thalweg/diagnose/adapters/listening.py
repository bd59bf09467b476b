"""A loop that calls back without its loss or its batch (section 8.2): both are overheard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from thalweg.diagnose.monitor import Monitor


class Listening:
    """The events of Hugging Face's `TrainerCallback`, by their names: what `adapters/transformers.py` is made of.

    The model is called by name with a dictionary and answers with its loss; a hook on it hears both, in training only,
    and is taken off at the end. Gradients are looked at before they are set to zero (`on_optimizer_step`).
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.monitor: Monitor | None = None
        self._heard: tuple[Any, Any] | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
        """The model and its optimizer are there now."""
        self.monitor = Monitor(model, optimizer, **self.settings)
        self._hook = self.monitor.module.register_forward_hook(self._hear, with_kwargs=True)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a step, while gradients are there."""
        if self.monitor is not None and self._heard is not None:
            (loss, batch), self._heard = self._heard, None
            hook, self._hook = self._hook, None
            hook.remove()  # what the monitor does is not overheard
            self.monitor.step(loss, batch)
            self._hook = self.monitor.module.register_forward_hook(self._hear, with_kwargs=True)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """The loss on held-out data."""
        if self.monitor is not None and "eval_loss" in (metrics or {}):
            self.monitor.evaluated(metrics["eval_loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Lets go of the model."""
        if self._hook is not None:
            self._hook.remove()

    def _hear(self, module: nn.Module, _: Any, batch: dict[str, Any], answer: Any) -> None:
        loss = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
        if module.training and loss is not None:
            self._heard = loss.detach(), batch
