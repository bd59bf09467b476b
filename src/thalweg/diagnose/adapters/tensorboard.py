"""What a monitor saw (section 8.2), for TensorBoard, or whatever else has `add_scalar` and `add_text`."""

from __future__ import annotations

from typing import Protocol

from thalweg.diagnose.monitor import Monitor


class Writer(Protocol):
    """What is asked of a writer: that of `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...  # noqa: D102
    def add_text(self, tag: str, text_string: str, global_step: int) -> object: ...  # noqa: D102


def write(monitor: Monitor, writer: Writer, after: int = 0) -> int:
    """Writes the figures of the steps after `after`, and what they mean now; returns the step to go on after.

    >>> import torch
    >>> class Printed:
    ...     def add_scalar(self, tag, scalar_value, global_step): print(tag, scalar_value, global_step)
    ...     def add_text(self, tag, text_string, global_step): print(tag, global_step)
    >>> model = torch.nn.Linear(1, 1)
    >>> monitor = Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> monitor.step(0.5)
    >>> write(monitor, Printed())
    monitor/loss 0.5 1
    1
    """
    for figure, series in monitor.history.items():
        for reading in series:
            if reading.step > after:
                writer.add_scalar(f"monitor/{figure}", reading.value, reading.step)
    if found := monitor.findings():
        writer.add_text("monitor/findings", "\n\n".join(map(str, found)), monitor.t)
    return monitor.t
