"""Choosing the learning rate (sections 8.3.1 and 11.4.1): what is stable at first, then what does best when tried.

Curvature says where steps begin to diverge, not which of the lesser ones is best: sharpness changes along a run, and
rules that step to the minimum along each gradient are left behind in the end (Roulet et al. 2024). So learning rates
around the limit are tried, all from the same point on the same batches, the worse ones left out on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.critical_lr import critical
from thalweg.challenges.finding import Finding, Severity
from thalweg.challenges.spectrum import ends
from thalweg.challenges.stability import edge, filled, preconditioned
from thalweg.core.derivatives import hessian_at, value_and_gradient
from thalweg.core.errors import CurvatureError, DiagnosisError
from thalweg.core.lifted import lifted
from thalweg.core.measured import Measured, mean
from thalweg.core.network import Batch, Network
from thalweg.core.rule import Memory, Rule
from thalweg.core.undisturbed import undisturbed

GRID = tuple(0.9 * 2.0**k for k in range(4, -11, -1))  # of the limit: what is tried
ROUNDS = ((1 / 16, 4), (1 / 4, 3))  # up to which part of the steps, and how many go on from there
ORDERS = 3  # of the batches, in which those that are left run to the end: how a run ends is a matter of chance
BETWEEN = (2**-0.5, 2**0.5)  # beside the best of the grid
LAST = 4  # points near the end of a trial at which it is judged
FAR = 30.0  # times the lr in use: a step of the grid or two would be no finding
SOURCE = "Jamieson and Talwalkar 2016"


class Trial(NamedTuple):
    """How a learning rate did: the losses (h,) on the held-out batches after so many steps; infinite if it diverged.

    Where it ran to the end in several orders of the batches, they are those of one run after another.
    """

    lr: float
    steps: int
    losses: Tensor


class Advice(NamedTuple):
    """The lr for `steps` steps: where a parabola through what was tried is least, in logarithms; from the least to the
    largest of those that are not told from the best.

    `limit` is the largest stable at first, `how` how it was found. It is advice for runs of about so many steps: the
    best for a longer run is often less, and its schedule matters more.
    """

    lr: Measured
    limit: float
    how: str
    steps: int
    trials: tuple[Trial, ...]
    before: float = math.nan  # the loss on the held-out batches at the start


def advise_for(f: Any, theta: Tensor, rule: Rule, knobs: Mapping[str, Any] | None = None, steps: int = 32) -> Advice:
    """The advice for one objective f without noise from `theta: (n,)`: a full batch.

    Raises DiagnosisError where there is nothing to learn: a constant f.

    >>> from thalweg import sgd
    >>> f = lambda w: (torch.tensor([100.0, 1.0]) * w * w).sum() / 2
    >>> 0.3 / 100 <= advise_for(f, torch.ones(2), sgd).lr.value < 2 / 100
    True
    """
    return _advise(lambda t, order: f, [f], theta, rule, rule.with_defaults(knobs or {}), None, steps, 1)


def advise(
    network: Network,
    batches: Sequence[Batch],
    held: Sequence[Batch],
    rule: Rule,
    knobs: Mapping[str, Any] | None = None,
    memory: Memory | None = None,
    steps: int = 128,
    orders: int = ORDERS,
) -> Advice:
    """The lr for about `steps` steps of a rule from the network's theta (and a run's memory), judged on held batches.

    Fifteen rates around the largest that is stable are tried, the best four for a quarter of the steps, the best three
    and those beside the best for all, with the batches in `orders` orders: about 5 orders + 2 times as many gradients
    as steps, and a hundred for the limit. Nothing of the network changes. Where f has no second derivatives, or the
    rule no stability limit, the limit is the critical lr of its first step. Raises DiagnosisError where the loss does
    not depend on theta, is not finite, or rises for every rate.
    """
    theta, rule = network.theta.clone(), lifted(rule, network.shapes)

    shuffled = [list(range(len(batches))), *(_order(len(batches), order) for order in range(1, orders))]

    def at(t: int, order: int) -> Any:
        with torch.random.fork_rng(devices=[theta.device] if theta.is_cuda else []):
            torch.default_generator.manual_seed(orders * t + order)  # torch.manual_seed queues a call for CUDA
            return network.on(batches[shuffled[order][t % len(batches)]])

    with undisturbed(network.module):
        judged = [network.on(batch) for batch in held]
        return _advise(at, judged, theta, rule, rule.with_defaults(knobs or {}), memory, steps, orders)


def _order(n: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _advise(
    at: Callable[[int, int], Any], held: Sequence[Any], theta: Tensor, rule: Rule, knobs: dict[str, Any],
    memory: Memory | None, steps: int, orders: int,
) -> Advice:  # fmt: skip
    if "lr" not in knobs:
        raise DiagnosisError(f"{rule.name} has no lr: there is none to advise")
    limit, how = _limit(held[0], theta, rule, knobs, memory)
    trials: dict[float, Trial] = {}

    def best_of(running: list[_Running], to: int) -> list[_Running]:
        trials.update((each.lr, each.tried(to, held)) for each in running)
        return sorted(running, key=lambda each: float(trials[each.lr].losses.mean()))

    def starting(lr: float, order: int = 0) -> _Running:
        return _Running(lambda t: at(t, order), theta, rule, {**knobs, "lr": lr}, memory)

    running = [starting(limit * k) for k in GRID]
    for part, kept in ROUNDS:
        running = best_of(running, max(round(part * steps), 1))[:kept]
    for run in [*running, *(starting(running[0].lr * k) for k in BETWEEN)]:
        each = [run.tried(max(steps, 1), held), *(starting(run.lr, k).tried(steps, held) for k in range(1, orders))]
        trials[run.lr] = each[0]._replace(losses=torch.cat([trial.losses for trial in each]))
    last = [x for x in trials.values() if x.steps == max(steps, 1)]
    best = min(last, key=lambda x: float(x.losses.mean()))
    with torch.no_grad():
        start = float(torch.stack([f(theta).detach() for f in held]).mean())
    if not float(best.losses.mean()) < start:
        raise DiagnosisError(
            f"the loss did not fall in {best.steps} steps with any lr of {len(trials)}: no lr is advised"
        )
    alike = [trial.lr for trial in last if _alike(trial, best)]
    safe = [lr for lr in alike if lr < max(x.lr for x in last)]  # above the largest may be a cliff: nothing was tried
    value = min(max(_least(last, best), min(alike)), max(safe or alike))
    return Advice(Measured(value, min(alike), max(alike), len(held)), limit, how, steps, tuple(trials.values()), start)


def _least(trials: Sequence[Trial], best: Trial) -> float:
    """Where a parabola through the logarithms of lr and loss is least; the best lr where it has no minimum."""
    seen = [(math.log(x.lr), float(x.losses.mean())) for x in trials if bool(x.losses.isfinite().all())]
    if len(seen) < 4 or min(loss for _, loss in seen) <= 0:
        return best.lr
    at = torch.tensor([x for x, _ in seen], dtype=torch.float64)
    middle = float(at.mean())
    A = torch.stack([torch.ones_like(at), at - middle, (at - middle) ** 2], 1)
    _, b, c = torch.linalg.lstsq(A, torch.tensor([y for _, y in seen], dtype=torch.float64).log()).solution.tolist()
    return math.exp(middle - b / (2 * c)) if c > 0 else best.lr


def _alike(trial: Trial, best: Trial) -> bool:
    """Whether a trial of as many steps is not told from the best: pairs of held-out losses."""
    if trial.lr == best.lr:
        return True
    if trial.steps != best.steps or not bool(trial.losses.isfinite().all()):
        return False
    return len(trial.losses) > 1 and mean(trial.losses - best.losses).low <= 0


def _limit(f: Any, theta: Tensor, rule: Rule, knobs: dict[str, Any], memory: Memory | None) -> tuple[float, str]:
    """The largest stable lr, by the rule's limit and the sharpness; else the critical lr of its first step."""
    try:
        value, g = value_and_gradient(f, theta)
    except RuntimeError as error:
        raise DiagnosisError(f"no gradient of the loss can be had: {error}") from error
    if not bool(g.any()):
        raise DiagnosisError("the gradient is zero: the loss does not change with the parameters, no lr is advised")
    if not math.isfinite(float(value)) or not bool(g.isfinite().all()):
        raise DiagnosisError("the loss or its gradient is not finite at the start: no lr is advised")
    try:
        found = edge(rule, theta, g, filled(rule, theta, [g], knobs) if memory is None else memory, knobs)
        largest = ends(preconditioned(hessian_at(f, theta), found.gains), theta).largest.value
        if largest > 0 and math.isfinite(found.limit):
            return knobs["lr"] * found.limit / largest, "sharpness"
        why = f"the largest curvature is {largest:.3g} and the limit {found.limit:.3g}"
    except (CurvatureError, DiagnosisError) as error:
        why = str(error)
    seen, start = {"g": g, "theta": theta, "f": f}, rule.start(theta, **knobs) if memory is None else memory
    step = rule.step(seen, start, knobs)[0] / knobs["lr"]
    return critical(f, theta, step, float(g @ step)).lr.value, f"critical lr along the first step: {why}"


class _Running:
    """A run at one lr, that can be gone on with."""

    def __init__(
        self, at: Callable[[int], Any], theta: Tensor, rule: Rule, knobs: dict[str, Any], memory: Memory | None
    ) -> None:
        self.at, self.theta, self.rule, self.knobs, self.t = at, theta, rule, knobs, 0
        self.lr: float = knobs["lr"]
        self.memory = rule.start(theta, **knobs) if memory is None else memory

    def advance(self, to: int) -> None:
        while self.t < to and bool(self.theta.isfinite().all()):
            f = self.at(self.t)
            _, g = value_and_gradient(f, self.theta)
            with torch.no_grad():
                delta, self.memory = self.rule.step({"g": g, "theta": self.theta, "f": f}, self.memory, self.knobs)
            self.theta, self.t = self.theta + delta, self.t + 1

    def tried(self, to: int, held: Sequence[Any]) -> Trial:
        """Goes on to step `to`; its losses are means over a few of the last steps, which differ by their batches."""
        seen = []
        for k in range(LAST - 1, -1, -1):
            self.advance(to - k * max(to // 32, 1))
            with torch.no_grad():
                losses = torch.stack([f(self.theta).detach().double() for f in held])
            seen.append(losses.nan_to_num(math.inf, math.inf, math.inf))
        return Trial(self.lr, to, torch.stack(seen).mean(0))


def findings(advice: Advice, lr: float) -> list[Finding]:
    """Whether the lr in use is far too low, or above the stability limit, by what was tried.

    It is too low where all that are not told from the best are more than 30 times as large; above the limit where the
    best are less than half of it, and one tried that is no larger than it did not lower the loss at all.

    >>> trials = (Trial(2.0, 8, torch.tensor([2.4])), Trial(0.3, 100, torch.tensor([0.5])))
    >>> advice = Advice(Measured(0.3, 0.2, 0.6, 4), 2.0, "sharpness", 100, trials, before=2.3)
    >>> [[f.name for f in findings(advice, lr)] for lr in (1e-3, 0.1, 2.5)]
    [['lr far too low'], [], ['lr above the stability limit']]
    """
    ratio = advice.lr.through(lambda x: x / lr)
    factor = float(f"{ratio.value:.2g}")
    common = (ratio, SOURCE, "8.3.1", f"multiply lr by {factor:g}", {"lr_factor": factor})
    best = f"in {advice.steps} steps an lr of {advice.lr.value:.2g} does best, {ratio.value:.2g} times the one in use"
    if ratio.low >= FAR:
        return [_finding("lr far too low", best, "warning", f"{FAR:g} times the lr in use", *common)]
    above = [x for x in advice.trials if 2 * advice.lr.high < x.lr <= lr and not float(x.losses.mean()) < advice.before]
    if not above:
        return []
    least = min(above, key=lambda trial: trial.lr)
    what = f"{best}, and in {least.steps} steps one of {least.lr:.2g} did not lower the loss at all"
    return [_finding("lr above the stability limit", what, "critical", "half of the lr in use", *common)]


def _finding(
    name: str, what: str, severity: Severity, rule: str, measured: Measured, source: str, section: str, advice: str,
    remedy: dict[str, Any],
) -> Finding:  # fmt: skip
    return Finding(name, what, severity, measured, rule, source, section, advice, remedy=remedy)
