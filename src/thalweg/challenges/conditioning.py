"""Ill-conditioning (section 8.2.1): gᵀHg against gᵀg, the condition number, and inputs that differ in scale.

Every deep network has directions that are flat beside its sharpest one, and trains all the same: a large condition
number alone is no fault. It is one where what is to be learned lies in the flat directions. On a quadratic the spectrum
of the gradient says so. In a network the spectrum does not (measured: healthy networks and one with a condition number
of a million in its inputs have the same there), but the inputs do: features of small scale that say something about the
targets are learned as many times more slowly as their variance is smaller, and standardising them is the cure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding
from thalweg.challenges.spectrum import WHOLE, spectrum
from thalweg.challenges.stability import edge, filled
from thalweg.core.derivatives import hessian_at, value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly, jackknife, mean, ratio
from thalweg.core.network import Batch, Network
from thalweg.core.rule import Rule
from thalweg.core.undisturbed import undisturbed
from thalweg.second_order.krylov import krylov

SLOW = 100.0  # times as slow as the fastest feature: out of reach of most runs
SIGNAL = 0.1  # of what the features say about the targets: more of it in slow ones is harm
LARGE = 1e4  # a condition number below it is none to speak of
STEPS = 1000  # of gradient descent with the largest stable lr
FIRST = 10  # of those steps, for what is easy
LEFT = 0.5  # of the decrease that is there then: more of it left after STEPS is harm
NOTHING = 1e-9  # of the whole decrease: there is nothing left to gain
GROUPS = 10  # of examples, each of which is left out once


class Criterion(NamedTuple):
    """The terms of (8.10), over batches: a step of -lr g is predicted to change f by -lr gᵀg + ½ lr² gᵀHg."""

    squared: Measured  # gᵀg
    curvature: Measured  # gᵀHg
    along: Measured  # gᵀHg / gᵀg, the curvature along the gradient
    lr: float

    @property
    def harm(self) -> Measured:
        """½ lr gᵀHg / gᵀg: from 1 on the step is predicted to raise f."""
        return self.along.through(lambda x: self.lr * x / 2)


class Inputs(NamedTuple):
    """The scales of the features of a sample, and how much of what they say of the targets is in the slow ones."""

    condition: Measured  # the largest variance over the least of a feature that says something
    slow: Measured  # a part of 1
    features: int


class Along(NamedTuple):
    """A quadratic model, whole: its condition number, what is to gain after FIRST steps, and what STEPS leave of it."""

    condition: Measured
    first: Measured  # a part of the whole decrease
    left: Measured  # a part of the first


def criterion(network: Network, batches: Iterable[Batch], lr: float) -> Criterion:
    """(8.10) at the network's theta over batches, for a step of lr; a gradient and a product with H a batch.

    Of one batch nothing is known of the error, and the interval has no ends. Raises DiagnosisError without batches or
    where something is not finite, CurvatureError without second derivatives.

    >>> network = Network(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss)
    >>> criterion(network, [Batch(torch.randn(8, 2), torch.ones(8, 1)) for _ in range(4)], lr=0.1).along.n
    4
    """
    with undisturbed(network.module):
        return _criterion([(network.on(batch), network.theta) for batch in batches], lr)


def criterion_of(f: Any, theta: Tensor, lr: float) -> Criterion:
    """(8.10) for an objective f at `theta: (n,)`, exactly.

    >>> f = lambda w: (torch.tensor([100.0, 1.0]) * w * w).sum() / 2
    >>> print(criterion_of(f, torch.ones(2), lr=0.02).along)
    100
    """
    found = _criterion([(f, theta)], lr)
    squared, curvature, along = (exactly(m.value) for m in found[:3])
    return Criterion(squared, curvature, along, lr)


def _criterion(at: list[tuple[Any, Tensor]], lr: float) -> Criterion:
    if not at:
        raise DiagnosisError("no batch was given: the curvature along the gradient is measured on one or more")
    rows = []
    for f, theta in at:
        product, g = hessian_at(f, theta), value_and_gradient(f, theta)[1].clone()
        rows.append((float(g @ g), float(g @ product(g))))
        if not all(map(math.isfinite, rows[-1])):
            raise DiagnosisError("the gradient or its product with the Hessian is not finite: (8.10) says nothing here")
    squared, curvature = torch.tensor(rows, dtype=torch.float64).T
    sign = math.copysign(1.0, float(curvature.sum()))
    along = ratio(sign * curvature, squared)
    if sign < 0:
        along = Measured(-along.value, -along.high, -along.low, along.n)
    return Criterion(mean(squared), mean(curvature), along, lr)


def inputs(sample: Batch, rule: Rule) -> Inputs | None:
    """What the scales of the features do to training with a rule; None where inputs or targets are not of that kind.

    Inputs are real numbers, a feature each; targets classes or numbers. What a feature says is the part of its
    variance that lies between classes (epsilon squared, Kelley 1935), or the squared correlation, both without the part
    of chance. A feature is learned at a rate of its scale squared, less what the rule makes good: Adam divides by the
    size of gradients, and the rate is the scale. Constant features say nothing.

    >>> from thalweg import adam, sgd
    >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> sample = Batch(x * torch.tensor([1.0, 1e-3]), x.sum(1, keepdim=True))
    >>> print(inputs(sample, sgd).slow)
    0.567 (0.521 to 0.612)
    """
    x, y = sample
    if not x.is_floating_point() or x.dim() < 2 or len(x) < 3 * GROUPS or not _targets(y, len(x)):
        return None
    x, power = x.reshape(len(x), -1).double().cpu(), 2.0 - _made_good(rule)
    y = y.cpu() if not y.is_floating_point() else y.reshape(len(y), -1).double().cpu()
    scales = x.std(0)
    rates = (scales / scales.max()) ** power
    if not bool((rates > 0).any()):
        return None
    told = _told(x, y)
    some = rates[(told > 0.01) & (rates > 0)]
    condition = exactly(1.0 / float(some.min())) if len(some) else exactly(1.0)

    def slow(kept: Tensor) -> float:
        each = _told(x[kept.long().flatten()], y[kept.long().flatten()])
        return float(each[rates < 1 / SLOW].sum() / each.sum().clamp_min(1e-12))

    size = len(x) // GROUPS
    groups = torch.arange(size * GROUPS).reshape(size, GROUPS).T
    share = jackknife(slow, groups)
    return Inputs(condition, share, x.shape[1])


def _targets(y: Tensor, n: int) -> bool:
    classes = y.dim() == 1 and not y.is_floating_point()
    return classes or (y.is_floating_point() and y.numel() > 0 and y.numel() // n < n)


def _made_good(rule: Rule) -> float:
    """The power of the size of gradients by which a rule divides its steps: 0 for SGD, 1 for Adam."""
    if rule.per == "tensor" or set(rule.sees) - {"g", "theta"}:
        return 1.0
    g = torch.tensor([1.0, 1e-2], dtype=torch.float64)
    try:
        gains = edge(rule, torch.ones_like(g), g, filled(rule, torch.ones_like(g), [g], rule.knobs), rule.knobs).gains
    except DiagnosisError:  # signs of gradients
        return 1.0
    return round(math.log10(float(gains[1] / gains[0])) / 2, 3)


def _told(x: Tensor, y: Tensor) -> Tensor:
    """How much of a feature's variance the targets account for, without chance's part: (d,), each from 0 to 1."""
    n, z = len(x), x - x.mean(0)
    total = z.square().sum(0)
    if y.dim() == 1:
        member = torch.nn.functional.one_hot(y - y.min()).double()
        member = member[:, member.any(0)]
        k = member.shape[1]
        inside = total - ((member.T @ z).square() / member.sum(0)[:, None]).sum(0)
        part = 1 - inside / (n - k) / (total / (n - 1)) if n > k else torch.zeros_like(total)
    else:
        t = y - y.mean(0)
        squares = (z.T @ t).square() / total[:, None] / t.square().sum(0).clamp_min(1e-300)
        part = (squares - (1 - squares) / (n - 2)).mean(1)
    return torch.where(total > 0, part, 0.0).nan_to_num().clamp(0, 1)


def along(f: Any, theta: Tensor) -> Along | None:
    """What gradient descent with lr = 1/l_max leaves of the decrease that there is, by the quadratic model.

    In the space of the gradient and H, with the gradient's part c_i along the eigenvalue l_i, the decrease is
    c_i²/(2 l_i), and (1 - l_i/l_max)^2k of it is left after k steps. None where n is too large for the whole spectrum,
    or H has an eigenvalue below zero, beyond rounding: the model has then no minimum.

    >>> from thalweg.challenges.spectrum import Quadratic
    >>> found = along(Quadratic([1e6, 1.0]), torch.ones(2, dtype=torch.float64))
    >>> print(found.condition)
    1e+06
    """
    whole = spectrum(f, theta, probes=0) if len(theta) <= WHOLE else None
    if whole is None or whole.ends.smallest.value < -whole.tolerance or not whole.ends.largest.value > 0:
        return None
    _, g = value_and_gradient(f, theta)
    found = krylov(hessian_at(f, theta).apply, g, len(theta))
    if found is None:
        return None
    values, V = torch.linalg.eigh(found.T)
    seen = values > whole.tolerance
    values, parts = values[seen], (V.T @ found.c).square()[seen]
    there = parts / values / 2
    first, left = (float((there * (1 - values / values.max()) ** (2 * k)).sum()) for k in (FIRST, STEPS))
    return Along(whole.condition, exactly(first / float(there.sum())), exactly(left / first if first else 0.0))


def findings(measured: Inputs | Along | Criterion) -> list[Finding]:
    """ "ill-conditioning" where it does harm; a large number alone is nothing. (8.10) alone is a note.

    >>> [f.severity for f in findings(Along(exactly(1e6), exactly(0.3), exactly(0.9)))]
    ['warning']
    >>> findings(Along(exactly(1e6), exactly(0.3), exactly(0.1)))
    []
    """
    if isinstance(measured, Inputs):
        return _of_inputs(measured)
    if isinstance(measured, Along):
        return _of_quadratic(measured)
    if not measured.harm.low > 1:
        return []
    what = f"a step is predicted to raise f: ½ lr gᵀHg is {measured.harm.value:.3g} times gᵀg"
    rule, advice = "1, where the second-order term of (8.10) outweighs the first", "lower lr if the loss does not fall"
    return [Finding("ill-conditioning", what, "note", measured.harm, rule, "Goodfellow et al. 2016", "8.2.1", advice)]


def _of_inputs(measured: Inputs) -> list[Finding]:
    if not measured.slow.low > SIGNAL:
        return []
    return [
        Finding(
            "ill-conditioning",
            f"{measured.slow.value:.0%} of what the {measured.features} inputs say about the targets is in features "
            f"learned {SLOW:g} times more slowly than the largest, or worse: by their scale, up to "
            f"{measured.condition.value:.1g} times",
            "warning",
            measured.slow,
            f"{SIGNAL:.0%} in features {SLOW:g} times as slow as the fastest",
            "LeCun et al. 1998",
            "8.2.1",
            "standardise the inputs: each feature less its mean, over its standard deviation; or take Adam, or K-FAC",
            where="inputs",
            remedy={"algorithm": "adam"},
        )
    ]


def _of_quadratic(measured: Along) -> list[Finding]:
    if not (measured.condition.value >= LARGE and measured.first.low > NOTHING and measured.left.low > LEFT):
        return []
    return [
        Finding(
            "ill-conditioning",
            f"the condition number is {measured.condition.value:.3g}: of what is to be gained after {FIRST} steps at a "
            f"stable lr, {STEPS} leave {measured.left.value:.0%}",
            "warning",
            measured.condition,
            f"{LARGE:g}, with more than {LEFT:.0%} left",
            "Nocedal and Wright 2006, theorem 3.3",
            "8.2.1",
            "standardise the inputs, take momentum or Adam, or a second-order method: Newton, BFGS, K-FAC",
        )
    ]
