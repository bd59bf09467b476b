"""A monitor for people with their own loop (section 8.2): it looks while training goes on, and changes nothing.

A run that is monitored ends bit for bit as one that is not. What is dear is looked at seldom, as a budget allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from thalweg.challenges import updates
from thalweg.challenges.finding import Finding
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Loss, Network
from thalweg.core.undisturbed import looked_into, undisturbed
from thalweg.diagnose.budget import Budget, Share
from thalweg.diagnose.causes import Cause
from thalweg.diagnose.examples import Forward, batch_of, network_of
from thalweg.diagnose.glances import OF_KEPT, ONCE, RUNGS, Glance, Loop
from thalweg.diagnose.heard import Late, gradient_length
from thalweg.diagnose.history import Series
from thalweg.diagnose.kept import PAIRS, Kept
from thalweg.diagnose.log import Log
from thalweg.diagnose.ruled import plain_optimizer

FAILURES = 3  # of one look, after which it is left
FIRST_ORDER = {"gradient norm": (0.5, 0.05), "update ratio": (0.5, 0.2)}  # weight in the budget, steps of training


class Monitor:
    """Watches a loop: `with Monitor(model, optimizer, loss=f) as monitor:`, and `monitor.step(loss, batch)` each step.

    It takes at most `cost` of the time of the loop, as measured on the way; `waiting` says which looks that has not
    paid for. A batch is (inputs, targets), or anything else with `forward`, a function of the module and a batch that
    returns (outputs, targets), or the loss; a dictionary is given to the module by name. Without batches there are
    losses, gradients and updates only. `batch_size` is for steps of more examples than a batch has (accumulated
    gradients, several processes), `scaler` the GradScaler, whose skipped steps are no finding.

    `history` holds figures over the steps; `findings()` what they mean. Raises NetworkError or DiagnosisError for a
    module that cannot be looked into, or another's optimizer; what fails on the way is in `refused`, with the reason.

    >>> model, f = nn.Linear(4, 2), nn.functional.mse_loss
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> batch = torch.randn(64, 4), torch.randn(64, 2)
    >>> with Monitor(model, optimizer, loss=f) as monitor:
    ...     for t in range(50):
    ...         optimizer.zero_grad()
    ...         loss = f(model(batch[0]), batch[1])
    ...         loss.backward()
    ...         optimizer.step()
    ...         monitor.step(loss, batch)
    >>> len(monitor.history["loss"]), [f.name for f in monitor.findings() if f.severity == "critical"]
    (50, [])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss | None = None,
        *,
        cost: float = 0.05,
        forward: Forward | None = None,
        batch_size: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not 0 < cost < math.inf:
            raise DiagnosisError(f"cost={cost} was given: it is a share of the time of the loop, 0.05 say")
        self.module, self.optimizer = looked_into(model), plain_optimizer(optimizer)
        mine = {id(p) for p in self.module.parameters()}
        if not any(id(p) in mine for group in self.optimizer.param_groups for p in group["params"]):
            raise DiagnosisError("the optimizer has no parameter of the model: give the one that trains it")
        self.loss, self.forward, self.batch_size, self.scaler = loss, forward, batch_size, scaler
        self.t = 0  # steps seen
        self._log = Log()
        shares = {name: Share(weight, steps, cheap=True) for name, (weight, steps) in FIRST_ORDER.items()}
        shares |= {name: Share(rung.weight, rung.steps) for name, rung in RUNGS.items()}
        self.budget = Budget(cost, shares)
        self._clock, self._ended = clock, math.nan
        self._late, self._late_norms = Late(self._log.losses.hear), Late(self._hear_norm)
        self._kept = Kept()
        self._ready: list[str] = [*FIRST_ORDER, *(name for name in RUNGS if name not in OF_KEPT)]
        self._network: Network | None = None
        self._updating: float | None = None  # seconds that the copy took of the parameters before the next step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of what it holds of the loop; what was seen stays."""
        self._flush()
        self._kept, self._network, self._updating = Kept(), None, None

    # The loop

    def step(self, loss: Tensor | float, batch: Any = None, *, norm: Tensor | float | None = None) -> None:
        """After a step of the optimizer, with the loss that it was taken for; before gradients are set to zero.

        Where gradients are clipped, `norm` is what `clip_grad_norm_` returned: their length before.
        """
        began, looking = self._clock(), 0.0
        self.t += 1
        if not math.isnan(self._ended):
            self.budget.passed(began - self._ended)
        try:
            self._late.add(self.t, loss)
            if norm is not None:
                self._late_norms.add(self.t, norm)
                if "gradient norm" in self.budget.shares:
                    self.budget.drop("gradient norm")  # it is told from now on
        except Exception as error:  # noqa: BLE001 - as in _note, which would take as long as this
            self._log.failed("loss", error, self.t)
        if batch is not None and self._kept.wants(self.t) and "order" in self.budget.shares:
            self._note("order", lambda: self._kept.add(self.t, batch_of(batch, self._network_for(batch))))
        if self._updating is not None:
            copied, self._updating = self._updating, None
            looking = self._timed("update ratio", self._second_half, copied)
        elif due := self.budget.due(self._ready):
            # A copy of the parameters, or a look without a batch, may have to wait for the next step.
            looking = math.fsum(self._take(name, batch) for name in due if name in FIRST_ORDER or batch is not None)
            self._ready = self._can_look(batch)
        self._ended = self._clock()
        self.budget.overhead += max(self._ended - began - looking, 0.0)

    def _can_look(self, batch: Any) -> list[str]:
        """What there is enough for, in a loop that gives such batches."""
        several = len(self._kept.pairs(PAIRS)) >= 2 * PAIRS
        return [*FIRST_ORDER, *(name for name in RUNGS if batch is not None and (several or name not in OF_KEPT))]

    def look(self, batch: Any) -> None:
        """Looks at everything once, now, whatever it takes: before the first step say, or at the end."""
        self._flush()
        for name in RUNGS:
            if name in self.budget.shares:
                self._take(name, batch)
        self._ended = math.nan

    def evaluated(self, loss: Tensor | float) -> None:
        """The loss on held-out data, whenever the loop has one: whether it rises again."""
        self._note("validation loss", lambda: self._log.add("validation loss", self.t, float(loss)))

    def _take(self, name: str, batch: Any) -> float:
        """A look, in seconds."""
        if name == "update ratio":
            return self._first_half()
        if name == "gradient norm":
            return self._timed(name, lambda: self._late_norms.add(self.t, self._gradient_length()))
        if any(p.is_cuda for p in self.module.parameters()):
            torch.cuda.synchronize()  # what training has queued is not of the look
        return self._timed(name, lambda: self._glance(name, batch))

    def _timed(self, name: str, look: Callable[[], None], before: float = 0.0) -> float:
        """Takes a look, and tells the budget its seconds, and those that went into it before."""
        began = self._clock()
        done = self._note(name, look)
        seconds = self._clock() - began
        self.budget.took(name, before + seconds)
        if name in self.budget.shares and ((done and name in ONCE) or self._log.failures.get(name, 0) >= FAILURES):
            self.budget.drop(name)
        return seconds

    def _note(self, name: str, look: Callable[[], None]) -> bool:
        """Does something; where it fails, training goes on, and the reason is kept."""
        try:
            look()
        except Exception as error:  # noqa: BLE001 - whatever a look meets is no matter of the loop
            self._log.failed(name, error, self.t)
            return False
        return True

    # What is looked at

    def _gradient_length(self) -> Tensor:
        length = gradient_length(self.optimizer)
        fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)  # it has left the gradients scaled
        return length / self.scaler.get_scale() if self.scaler is not None and fused else length

    def _hear_norm(self, step: int, norm: float) -> None:
        if self.scaler is not None and not math.isfinite(norm):
            self._log.skipped += 1
        else:
            self._log.add("gradient norm", step, norm)

    def _first_half(self) -> float:
        """Copies the parameters, before the next step."""
        began = self._clock()
        if not self._note("update ratio", lambda: self._sync(self._network_for(None))):
            return self._timed("update ratio", lambda: None)
        self._updating = self._clock() - began
        return self._updating

    @torch.no_grad()
    def _second_half(self) -> None:
        """Holds the parameters after the step against those before."""
        network = self._network_for(None)
        before = network.theta.clone()
        self._sync(network)
        change = float((network.theta - before).norm() / before.norm())
        if change or self.scaler is None:  # it may have skipped the step
            self._log.ratios(updates.update_ratios(network, before, network.theta))
            self._log.add("update ratio", self.t, change)

    def _glance(self, name: str, batch: Any) -> None:
        device = next(self.module.parameters()).device.type
        with (
            undisturbed(self.module),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            network = self._network_for(batch)
            self._sync(network)
            examples = batch_of(batch, network)
            size, looks = self.batch_size or len(examples), self.budget.shares[name].looks
            fallen, pairs = self._log.losses.fallen, self._log.pairs
            loop = Loop(network, self.optimizer, examples, self.t, size, fallen, looks, self._kept, pairs)
            glance: Glance = RUNGS[name].look(loop)
        for figure, measured in glance.figures.items():
            self._log.add(figure, self.t, measured.value, (measured.low, measured.high))
        self._log.found(name, glance.findings, self.t)

    def _network_for(self, batch: Any) -> Network:
        """What looks at the module; without a batch only its parameters are of interest."""
        if self._network is None or (batch is not None and self._network.loss is _no_loss):
            if batch is None:
                self._network = Network(self.module, _no_loss, own=False)
            else:
                self._network = network_of(self.module, self.loss, self.forward, batch)
        return self._network

    @torch.no_grad()
    def _sync(self, network: Network) -> None:
        """The network's theta as the parameters are now."""
        torch._foreach_copy_([*network.views(network.theta).values()], [p.detach() for p in network.parameters])

    def _flush(self) -> None:
        self._late.flush()
        self._late_norms.flush()

    # What was seen

    @property
    def history(self) -> dict[str, Series]:
        """Figures over the steps, by name: "loss", "gradient norm", "noise scale", "sharpness" and others."""
        self._flush()
        return {"loss": self._log.losses.series, **self._log.series}

    @property
    def refused(self) -> dict[str, str]:
        """What could not be looked at, and why."""
        return self._log.refused

    @property
    def skipped(self) -> int:
        """Steps that the scaler skipped."""
        return self._log.skipped

    @property
    def waiting(self) -> dict[str, str]:
        """What was not looked at yet, and when the budget will have paid for it."""
        never = [name for name, share in self.budget.shares.items() if not share.looks and name in RUNGS]
        return {name: f"in about {self.budget.wait(name):.2g} s of training more, at this cost" for name in never}

    def causes(self) -> list[Cause]:
        """What the latest looks found, symptoms under their causes, the worst in front."""
        self._flush()
        return self._log.causes(self.t, lambda: self._network_for(None))

    def findings(self) -> list[Finding]:
        """The causes alone, the worst in front."""
        return [cause.finding for cause in self.causes()]

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far as plain data, to go on from."""
        self._flush()
        return {"t": self.t, "budget": self.budget.state(), **self._log.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state_dict of a monitor of the same model."""
        self.t = state["t"]
        self.budget.load(state["budget"])
        self._log.load(state)


def _no_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    raise DiagnosisError("no batch was given to step(): there is nothing to measure on")
