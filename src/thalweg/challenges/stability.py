"""Stability (sections 4.3.1 and 8.2.1): the sharpness of f against the largest at which the rule in use still descends.

The limit is derived from the rule itself. A rule's memory falls in two: what turns with the gradient (velocities,
first moments) and what does not (second moments, clocks). With the second kept as it is and the first and the gradient
small, a rule is linear: a gain for each parameter, and one recurrence that all share. Of the gains A, the rule is
stable on a quadratic while the largest eigenvalue of A^½ H A^½ is under the limit of the recurrence: for SGD
lr λ < 2, for heavy ball 2 + 2 beta, for Adam, with its second moments as a preconditioner, 2 (1 + beta1) / (1 - beta1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding
from thalweg.challenges.spectrum import ends
from thalweg.core.derivatives import Product, hessian_at, value_and_gradient
from thalweg.core.errors import CurvatureError, DiagnosisError
from thalweg.core.lifted import lifted
from thalweg.core.measured import Measured, exactly
from thalweg.core.network import Batch, Network
from thalweg.core.noise import signs, uniform
from thalweg.core.rule import Memory, Rule
from thalweg.core.undisturbed import undisturbed

SMALL = 1e-6  # of the size of gradients: a rule's answer to one that small is linear
STEPS = 50  # with the gradients at hand until a rule's memory is taken as filled, where there is no run's
TRIED = 20  # steps on one batch, to see whether f really rises
RISEN = 1.5  # times the first loss: more is no fluctuation
MARGIN = 0.8  # of the limit, for the advice
SOURCE = "Cohen et al. 2021 and 2022"


class Edge(NamedTuple):
    """What a rule is near a point: its gains, and the largest eigenvalue of A^½ H A^½ at which it is stable."""

    gains: Tensor  # (n,), how far each parameter goes for a gradient of one, at first
    limit: float


class Stability(NamedTuple):
    """Sharpness, how much of what the rule stands it uses (above 1 it diverges along the top), and a trial.

    The trial is the loss on the one batch, before each of some steps and after the last; where lr is above the limit.
    """

    sharpness: Measured
    share: Measured
    trial: tuple[float, ...]

    @property
    def rises(self) -> bool:
        """Whether the loss of the trial ends far above where it began, or is no number any more."""
        if not self.trial:
            return False
        last = sorted(self.trial[-5:])[len(self.trial[-5:]) // 2]
        return not all(map(math.isfinite, self.trial)) or last > RISEN * self.trial[0] + 1e-12


def limit(rule: Rule, **knobs: float) -> float:
    """The largest stable lr times sharpness; for an adaptive rule, sharpness after division by the size of gradients.

    Raises DiagnosisError for a rule whose steps are not proportional to small gradients (signs of them), or that looks
    at several parameters together, and for one without the knob lr.

    >>> from thalweg import adam, momentum, nesterov, sgd
    >>> [round(limit(rule), 3) for rule in (sgd, momentum, nesterov, adam)]
    [2.0, 3.8, 1.357, 37.97]
    """
    values = rule.with_defaults(knobs)
    if "lr" not in values:
        raise DiagnosisError(f"{rule.name} has no lr: there is no limit to it")
    g = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    found = edge(rule, torch.ones_like(g), g, filled(rule, torch.ones_like(g), [g], values, 1000), values)
    return float(found.limit * values["lr"] / float(found.gains[0]))


def filled(
    rule: Rule, theta: Tensor, gradients: Sequence[Tensor], knobs: Mapping[str, Any], steps: int = STEPS
) -> Memory:
    """The memory of a rule after some steps with gradients (n,), one after the other and again; theta stays."""
    _elementwise(rule)
    memory = rule.start(theta, **knobs)
    for t in range(steps):
        _, memory = rule.step({"g": gradients[t % len(gradients)], "theta": theta}, memory, knobs)
    return memory


def edge(rule: Rule, theta: Tensor, g: Tensor, memory: Memory, knobs: Mapping[str, Any]) -> Edge:
    """The gains (n,) of a rule and its limit, at theta with gradient g: (n,) and a memory; see the top of the file.

    Where a parameter has no gradient its gain is 0. Raises DiagnosisError for a rule that is not like that.

    >>> from thalweg import sgd
    >>> edge(sgd, torch.ones(2), torch.ones(2), {}, {"lr": 0.5})
    Edge(gains=tensor([0.5000, 0.5000], dtype=torch.float64), limit=2.0)
    """
    _elementwise(rule)
    turning = _turning(rule, knobs)
    theta, g = theta.double(), g.double()
    size = SMALL * g.abs()
    rest = {name: value.double() if isinstance(value, Tensor) else value for name, value in memory.items()}
    rest |= {name: torch.zeros_like(rest[name]) for name in turning}
    zero = torch.zeros_like(theta)
    found = []
    for push in (size * signs(g, 0), size * signs(g, 1) * (0.5 + uniform(g, 1))):
        delta, _ = rule.step({"g": push, "theta": zero}, rest, knobs)
        found.append(torch.where(push != 0, -delta / push, 0.0))
    gains, again = found
    if not bool(gains.isfinite().all()) or float((gains - again).norm()) > 1e-3 * float(gains.norm()):
        raise DiagnosisError(f"the steps of {rule.name} are not proportional to small gradients: it has no such limit")
    moved = gains.nonzero()[:, 0]
    if not len(moved):
        raise DiagnosisError("the gradient is zero everywhere: there is nothing from which a step could be told")
    i = int(moved[g[moved].abs().argsort()[len(moved) // 2]])
    there = {n: v[i] if isinstance(v, Tensor) and v.shape == theta.shape else v for n, v in rest.items()}
    return Edge(gains, _limit(*_recurrence(rule, turning, there, float(size[i]), float(gains[i]), knobs)))


def _elementwise(rule: Rule) -> None:
    if rule.per == "tensor" or set(rule.sees) - {"g", "theta"}:
        raise DiagnosisError(f"{rule.name} looks at several parameters together: its stability limit cannot be told")


def _turning(rule: Rule, knobs: Mapping[str, Any]) -> list[str]:
    """What of a rule's memory turns with theta and the gradient; the rest must stay as it is."""
    theta = torch.tensor([0.5, -1.0, 2.0, 1.5], dtype=torch.float64)
    try:
        one, other = (filled(rule, s * theta, [s * theta.roll(1), s * theta.roll(2)], knobs, 3) for s in (1, -1))
    except RuntimeError as error:  # a rule for the shapes of one network
        raise DiagnosisError(f"{rule.name} looks at parameters together: its stability limit cannot be told") from error
    turning = [n for n, v in one.items() if isinstance(v, Tensor) and v.shape == theta.shape and _same(v, -other[n])]
    turning = [n for n in turning if bool(one[n].any())]
    if not all(name in turning or _same(value, other[name]) for name, value in one.items()):
        raise DiagnosisError(f"{rule.name} does not treat a gradient and its opposite alike: its limit cannot be told")
    return turning


def _same(a: Any, b: Any) -> bool:
    return bool(torch.allclose(torch.as_tensor(a), torch.as_tensor(b), equal_nan=True))


def _recurrence(
    rule: Rule, turning: list[str], rest: Memory, size: float, gain: float, knobs: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """M and N: (theta, what turns) becomes (M + mu N) times it, where the gradient is mu / gain times theta."""
    k = len(turning) + 1
    unit = size * torch.eye(k, k + 1, dtype=torch.float64)  # a column a trial: one of the states, or the gradient
    memory = {n: v * torch.ones(k + 1, dtype=torch.float64) if isinstance(v, Tensor) else v for n, v in rest.items()}
    memory |= {name: unit[j + 1] for j, name in enumerate(turning)}
    g = torch.zeros(k + 1, dtype=torch.float64)
    g[-1] = size
    delta, after = rule.step({"g": g, "theta": unit[0]}, memory, knobs)
    answers = torch.stack([unit[0] + delta, *(after[name] for name in turning)]) / size
    return answers[:, :k], torch.nn.functional.pad(answers[:, k:] / gain, (0, k - 1))


def _limit(M: Tensor, N: Tensor) -> float:
    """The mu from which on M + mu N makes something grow."""

    def grows(mu: float) -> bool:
        return float(torch.linalg.eigvals(M + mu * N).abs().max()) > 1 + 1e-9

    places = torch.logspace(-3, 4, 141, dtype=torch.float64).tolist()
    high = next((mu for mu in places if grows(mu)), math.inf)
    if high in (math.inf, places[0]):
        return high if high == math.inf else 0.0
    low = high / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if grows(middle) else (middle, high)
    return float(f"{high:.9g}")


def stability(
    network: Network, batch: Batch, rule: Rule, knobs: Mapping[str, Any] | None = None, memory: Memory | None = None
) -> Stability:
    """How much of its stability limit a rule uses, at the network's theta on a batch, with a run's memory or a new one.

    A new rule's memory is taken as it will be after some steps with this gradient. Costs 15 to 120 products with the
    Hessian, and 20 gradients for a trial. Raises CurvatureError without second derivatives, DiagnosisError for rules
    that have no such limit.

    >>> from thalweg import sgd
    >>> network = Network(torch.nn.Linear(1, 1, bias=False), torch.nn.functional.mse_loss)
    >>> print(stability(network, Batch(torch.ones(4, 1), torch.zeros(4, 1)), sgd, {"lr": 0.5}).share)
    0.5
    """
    with undisturbed(network.module):
        rule, values = lifted(rule, network.shapes), rule.with_defaults(knobs or {})
        return stability_of(network.on(batch), network.theta.clone(), rule, values, memory)


def stability_of(
    f: Any, theta: Tensor, rule: Rule, values: Mapping[str, Any], memory: Memory | None = None,
    most: int = 64, rtol: float = 0.01,
) -> Stability:  # fmt: skip
    """The same for an objective f at `theta: (n,)`, its sharpness to rtol or from at most so many products.

    >>> from thalweg import sgd
    >>> print(stability_of(lambda x: 3 * (x * x).sum(), torch.ones(2), sgd, {"lr": 0.1}).share)
    0.3
    """
    product = hessian_at(f, theta)
    value, g = value_and_gradient(f, theta)
    if not bool(torch.isfinite(value)) or not bool(g.isfinite().all()):
        raise DiagnosisError("the loss or its gradient is not finite: stability cannot be told")
    found = edge(rule, theta, g, filled(rule, theta, [g], values) if memory is None else memory, values)
    plain, gain = ends(product, theta, most, rtol).largest, float(found.gains.max())
    if float(found.gains.min()) > (1 - 1e-6) * gain:
        scaled = plain.through(lambda x: gain * x)
    else:
        scaled = ends(preconditioned(product, found.gains), theta, most, rtol).largest
    share = scaled.through(lambda mu: max(mu, 0.0) / found.limit)
    return Stability(plain, share, trial(f, theta, rule, values, memory) if share.low > 1 else ())


def preconditioned(product: Product, gains: Tensor) -> Product:
    """Products with A^½ H A^½, for the gains A: (n,) of a rule: its largest eigenvalue is what its limit is for.

    >>> preconditioned(Product(lambda u: 2 * u), torch.tensor([4.0, 1.0]))(torch.ones(2))
    tensor([8., 2.])
    """
    root = gains.sqrt()
    return product._replace(apply=lambda u: root.to(u) * product(root.to(u) * u))


def trial(
    f: Any, theta: Tensor, rule: Rule, knobs: Mapping[str, Any], memory: Memory | None = None, steps: int = TRIED
) -> tuple[float, ...]:
    """The losses of f along some steps of a rule from theta, on the one batch; it ends where they are no number.

    >>> from thalweg import sgd
    >>> trial(lambda x: (x * x).sum(), torch.ones(1), sgd, {"lr": 0.25}, steps=2)
    (1.0, 0.25, 0.0625)
    """
    memory, losses = rule.start(theta, **knobs) if memory is None else memory, []
    for t in range(steps + 1):
        loss, g = value_and_gradient(f, theta)
        losses.append(float(loss))
        if t == steps or not math.isfinite(losses[-1]):
            break
        with torch.no_grad():
            delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
            theta = theta + delta
    return tuple(losses)


def findings(measured: Stability) -> list[Finding]:
    """Above the limit and rising is critical; above it and falling is a note: training at the edge of stability.

    Along a run the sharpness grows until the rule is at its limit and hovers there, which is no fault. Where lr is a
    little above it at first, steps often lead to where the sharpness is less.

    >>> [f.severity for f in findings(Stability(exactly(9.0), exactly(4.5), (1.0, 8.0, 70.0)))]
    ['critical']
    >>> [f.name for f in findings(Stability(exactly(9.0), exactly(1.1), (1.0, 0.9, 0.8)))]
    ['sharpness']
    """
    if not measured.share.low > 1:
        return []
    times = (
        f"lr is {measured.share.value:.3g} times the largest that is stable at this sharpness ({measured.sharpness})"
    )
    common = (measured.share, "1, the limit of the rule in use", SOURCE, "8.2.1")
    if not measured.rises:
        what = f"{times}, and the loss falls all the same: it trains at the edge of stability"
        return [Finding("sharpness", what, "note", *common, "nothing: this is usual along a run")]
    factor = float(f"{MARGIN / measured.share.value:.2g}")
    steps, end = len(measured.trial) - 1, measured.trial[-1]
    what = f"{times}: in {steps} steps on one batch the loss goes from {measured.trial[0]:.3g} to {end:.3g}"
    advice = f"multiply lr by {factor:g}, or warm it up from there"
    return [Finding("lr above the stability limit", what, "critical", *common, advice, remedy={"lr_factor": factor})]


def refused(error: CurvatureError) -> Finding:
    """ "not differentiable twice": what there is to say where there is no curvature to measure.

    >>> refused(CurvatureError("no second derivatives")).severity
    'unclear'
    """
    return Finding(
        "not differentiable twice",
        f"{error}",
        "unclear",
        exactly(0.0),
        "second derivatives that are symmetric and agree with differences of first ones",
        "Pearlmutter 1994",
        "8.6",
        "the critical learning rate can be found by a line search instead, from values alone",
    )
