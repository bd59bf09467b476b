"""The monitor as a callback of Lightning (section 8.2): `Trainer(callbacks=[Watch(loss=f)])`."""

from __future__ import annotations

from typing import Any

import lightning

from thalweg.diagnose.monitor import Monitor


class Watch(lightning.Callback):
    """Makes a `Monitor` when training starts, with the settings that are given, and tells it of every batch.

    Steps are those of the optimizer: batches whose gradients are accumulated are counted once.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.monitor: Monitor | None = None
        self._steps = 0
        self._saved: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The model and its first optimizer are there now."""
        self.monitor, self._steps = Monitor(pl_module, trainer.optimizers[0], **self.settings), trainer.global_step
        if self._saved:
            self.monitor.load_state_dict(self._saved)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After each step of the optimizer."""
        if self.monitor is not None and trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self.monitor.step(outputs["loss"] if isinstance(outputs, dict) else outputs, batch)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._saved = state_dict
