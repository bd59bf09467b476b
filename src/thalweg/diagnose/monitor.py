"""A monitor for people with their own loop (section 8.2): it looks while training goes on, and changes nothing.

A run that is monitored ends bit for bit as one that is not. What is dear is looked at seldom, as a budget allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn

from thalweg.challenges import overfitting, spikes, updates
from thalweg.challenges.finding import Finding
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured
from thalweg.core.network import Loss, Network
from thalweg.core.undisturbed import looked_into, undisturbed
from thalweg.diagnose.budget import Budget, Share
from thalweg.diagnose.causes import ALARMS, Cause, Seen, causes
from thalweg.diagnose.examples import Forward, batch_of, network_of
from thalweg.diagnose.glances import OF_KEPT, ONCE, RUNGS, Glance, Loop, refused
from thalweg.diagnose.heard import Late, Losses, gradient_length
from thalweg.diagnose.history import Series
from thalweg.diagnose.kept import PAIRS, Kept
from thalweg.diagnose.ruled import plain_optimizer

SOON = 20  # steps that are the start of a run
FAILURES = 3  # of one look, after which it is left
RATIOS = 256  # of updates that are kept
FIRST_ORDER = {"gradient norm": (0.5, 0.05), "update ratio": (0.5, 0.2)}  # weight in the budget, steps of training
FROM_THE_START = {"sorted data", "symmetric units"}  # whenever they were seen


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
        self.skipped = 0  # of them, by the scaler
        self.refused: dict[str, str] = {}
        shares = {name: Share(weight, steps, cheap=True) for name, (weight, steps) in FIRST_ORDER.items()}
        shares |= {name: Share(rung.weight, rung.steps) for name, rung in RUNGS.items()}
        self.budget = Budget(cost, shares)
        self._clock, self._ended = clock, math.nan
        self._losses = Losses()
        self._late, self._late_norms = Late(self._losses.hear), Late(self._hear_norm)
        self._series: dict[str, Series] = {}
        self._ratios: list[Tensor] = []
        self._pairs: list[tuple[float, float]] = []
        self._latest: dict[str, list[Finding]] = {}
        self._since: dict[str, int] = {}
        self._failures: dict[str, int] = {}
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
            self._fail("loss", error)
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
        self._note("validation loss", lambda: self._add("validation loss", self.t, float(loss)))

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
        if name in self.budget.shares and ((done and name in ONCE) or self._failures.get(name, 0) >= FAILURES):
            self.budget.drop(name)
        return seconds

    def _note(self, name: str, look: Callable[[], None]) -> bool:
        """Does something; where it fails, training goes on, and the reason is kept."""
        try:
            look()
        except Exception as error:  # noqa: BLE001 - whatever a look meets is no matter of the loop
            self._fail(name, error)
            return False
        return True

    def _fail(self, name: str, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        self.refused[name] = f"{reason} (step {self.t})"
        self._failures[name] = self._failures.get(name, 0) + 1
        self._found(name, refused(error))

    # What is looked at

    def _gradient_length(self) -> Tensor:
        length = gradient_length(self.optimizer)
        fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)  # it has left the gradients scaled
        return length / self.scaler.get_scale() if self.scaler is not None and fused else length

    def _hear_norm(self, step: int, norm: float) -> None:
        if self.scaler is not None and not math.isfinite(norm):
            self.skipped += 1
        else:
            self._add("gradient norm", step, norm)

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
            self._ratios = [*self._ratios[1 - RATIOS :], updates.update_ratios(network, before, network.theta)]
            self._add("update ratio", self.t, change)

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
            fallen = self._losses.fallen
            loop = Loop(network, self.optimizer, examples, self.t, size, fallen, looks, self._kept, self._pairs)
            glance: Glance = RUNGS[name].look(loop)
        for figure, measured in glance.figures.items():
            self._add(figure, self.t, measured.value, (measured.low, measured.high))
        self._found(name, glance.findings)

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

    def _add(self, figure: str, step: int, value: float, ends: tuple[float, float] | None = None) -> None:
        self._series.setdefault(figure, Series()).add(step, value, ends)

    def _found(self, name: str, findings: list[Finding]) -> None:
        self._latest[name] = findings
        for finding in findings:
            if finding.severity in ALARMS:
                self._since.setdefault(finding.name, self.t)

    def _flush(self) -> None:
        self._late.flush()
        self._late_norms.flush()

    # What was seen

    @property
    def history(self) -> dict[str, Series]:
        """Figures over the steps, by name: "loss", "gradient norm", "noise scale", "sharpness" and others."""
        self._flush()
        return {"loss": self._losses.series, **self._series}

    @property
    def waiting(self) -> dict[str, str]:
        """What was not looked at yet, and when the budget will have paid for it."""
        never = [name for name, share in self.budget.shares.items() if not share.looks and name in RUNGS]
        return {name: f"in about {self.budget.wait(name):.2g} s of training more, at this cost" for name in never}

    def causes(self) -> list[Cause]:
        """What the latest looks found, symptoms under their causes, the worst in front."""
        self._flush()
        found = [finding for findings in self._latest.values() for finding in findings]
        found += self._losses.findings()
        norms = self._series.get("gradient norm", Series())
        if len(norms) > spikes.FIRST:
            found += spikes.findings(spikes.spikes(norms.values))
        if valid := self._series.get("validation loss"):
            found += overfitting.findings(overfitting.rise_of_curve(torch.tensor(valid.values)))
        if len(self._ratios) >= updates.FEWEST:
            found += updates.findings(updates.updates(self._network_for(None), self._ratios))
        return causes(Seen(finding, self._stage(finding)) for finding in found)

    def findings(self) -> list[Finding]:
        """The causes alone, the worst in front."""
        return [cause.finding for cause in self.causes()]

    def _stage(self, finding: Finding) -> str:
        since = self._since.get(finding.name, self.t)
        return "start" if since <= SOON or finding.name in FROM_THE_START else "run"

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far as plain data, to go on from."""
        self._flush()
        return {
            "t": self.t,
            "skipped": self.skipped,
            "refused": dict(self.refused),
            "budget": self.budget.state(),
            "losses": self._losses.state(),
            "series": {name: series.state() for name, series in self._series.items()},
            "ratios": [ratios.tolist() for ratios in self._ratios],
            "pairs": [list(pair) for pair in self._pairs],
            "latest": {name: [asdict(finding) for finding in found] for name, found in self._latest.items()},
            "since": dict(self._since),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state_dict of a monitor of the same model."""
        self.t, self.skipped, self.refused = state["t"], state["skipped"], dict(state["refused"])
        self.budget.load(state["budget"])
        self._losses.load(state["losses"])
        self._series = {name: Series() for name in state["series"]}
        for name, series in self._series.items():
            series.load(state["series"][name])
        self._ratios = [torch.tensor(ratios) for ratios in state["ratios"]]
        self._pairs = [(trace, squared) for trace, squared in state["pairs"]]
        self._latest = {name: [_finding(each) for each in found] for name, found in state["latest"].items()}
        self._since = dict(state["since"])


def _no_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    raise DiagnosisError("no batch was given to step(): there is nothing to measure on")


def _finding(plain: Mapping[str, Any]) -> Finding:
    return Finding(**{**plain, "measured": Measured(*plain["measured"])})
