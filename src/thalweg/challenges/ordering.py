"""The order of the data (section 8.1.3): sorted batches, repeated rows, and what was seen before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding
from thalweg.challenges.inexact import Draws, gradient_noise, microbatch_gradients
from thalweg.core.errors import ProblemError
from thalweg.core.measured import Measured, difference, mean, quotient
from thalweg.core.network import Batch, Network

CLUSTERED, REPEATING = 2.0, 0.3  # of a design effect and of an autocorrelation: above, batches are no fair samples
GRAVE = 8.0  # of a design effect


def sorted_classes(classes: int, each: int, between: float, seed: int) -> Tensor:
    """Numbers sorted by class `(classes * each, 4)`, of which `between` is the share of the variance between classes.

    Their mean is to be estimated: the gradient of an example is w - x. Batches that lie in one class have a design
    effect of 1 + (b - 1) between (Kish 1965), shuffled ones of 1.

    >>> x = sorted_classes(10, 100, between=0.9, seed=0)
    >>> x.shape, bool(x[:100].var(0).mean() < 0.2 * x.var(0).mean())
    (torch.Size([1000, 4]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(classes, 1, 4, dtype=torch.float64, generator=generator)
    middles = (middles - middles.mean(0)) / middles.std(0)
    inside = torch.randn(classes, each, 4, dtype=torch.float64, generator=generator)
    return (math.sqrt(between) * middles + math.sqrt(1 - between) * inside).reshape(-1, 4)


class InOrder(NamedTuple):
    """Gradients `g: (k, n)` of the batches of some steps, and of the same examples mixed into batches of that size."""

    g: Tensor
    mixed: Tensor  # (k, n)
    steps: Sequence[int]
    batch_size: int


class Order(NamedTuple):
    """How unlike fair samples the batches are that training sees."""

    design: Measured  # B Var(batch mean)/Var(example): 1 where examples are independent, B where all of a batch are one
    lag: Measured  # the correlation of a batch's gradient with the next one's
    batch_size: int

    @property
    def effective(self) -> float:
        """How many independent examples a batch is worth."""
        return self.batch_size / max(self.design.value, 1.0)


def neighbours(count: int, pairs: int = 12) -> list[int]:
    """Steps of an epoch of `count` batches to look at: pairs that follow each other, spread over the whole of it.

    Sorted data looks shuffled within one class: the first batches of an epoch do not do.

    >>> neighbours(1000, pairs=4), neighbours(5)
    ([0, 1, 250, 251, 500, 501, 750, 751], [0, 1, 2, 3, 4])
    """
    if count <= 2 * pairs:
        return list(range(count))
    return [start + i for start in (count * pair // pairs for pair in range(pairs)) for i in (0, 1)]


def gradients_in_order(network: Network, batches: Sequence[Batch], steps: Sequence[int], seed: int = 0) -> InOrder:
    """The gradients at the network's theta of batches that training sees at `steps`; nothing of the network changes.

    Batches that are shorter than the first are left out. Costs two gradients a batch.
    Raises ProblemError for fewer than 4 batches.

    >>> from thalweg.challenges.inexact import MeanEstimation
    >>> problem = MeanEstimation(0.0)
    >>> batches = [Batch(x, torch.zeros(64)) for x in sorted_classes(4, 128, between=0.5, seed=0).split(64)]
    >>> found = order(gradients_in_order(Network(problem, problem.loss), batches, neighbours(len(batches))))
    >>> found.design.low > 2
    True
    """
    size = len(batches[0]) if batches else 0
    kept = [(step, batch) for step, batch in zip(steps, batches, strict=True) if len(batch) == size]
    if len(kept) < 4:
        raise ProblemError(f"{len(kept)} whole batches were given: the order of data can be told from 4 or more")
    inputs, targets = (torch.cat([batch[i] for _, batch in kept]) for i in (0, 1))
    mix = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)).to(inputs.device)
    g = microbatch_gradients(network, [batch for _, batch in kept], 1, seed).g
    parts = [Batch(inputs[some], targets[some.to(targets.device)]) for some in mix.view(-1, size)]
    return InOrder(g, microbatch_gradients(network, parts, 1, seed + 1).g, [step for step, _ in kept], size)


def order(seen: InOrder) -> Order:
    """The design effect of batches, and the autocorrelation of their gradients from one step to the next.

    >>> x = sorted_classes(10, 640, between=0.5, seed=0)
    >>> mixed = x[torch.randperm(6400, generator=torch.Generator().manual_seed(0))]
    >>> found = order(InOrder(x.view(100, 64, 4).mean(1), mixed.view(100, 64, 4).mean(1), range(100), 64))
    >>> bool(found.design.low < 1 + 63 * 0.5 < found.design.high), found.lag.low > 0.3
    (True, True)
    """
    b = seen.batch_size
    ordered, mixed = (gradient_noise(Draws(g, b), b).trace for g in (seen.g, seen.mixed))
    return Order(quotient(ordered, mixed), _autocorrelation(seen.g, seen.steps), b)


def _autocorrelation(g: Tensor, steps: Sequence[int]) -> Measured:
    """Of vectors (k, n) at some steps, over those that follow each other, by Fisher's z."""
    k, centred = len(g), g.double() - g.double().mean(0)
    gram = (centred @ centred.T).cpu()
    pairs = [i for i in range(k - 1) if steps[i + 1] == steps[i] + 1]
    length = float(gram.diag().mean())
    if not pairs or length <= 0:
        return Measured(0.0, -1.0, 1.0, len(pairs))
    value = float(gram.diag(1)[pairs].mean()) / length + 1 / k  # centring has taken 1/k from it
    rank = max(length**2 / (float(gram.square().sum() - gram.diag().square().sum()) / (k * (k - 1)) + 1e-300), 1.0)
    z = math.atanh(min(max(value, -0.999), 0.999))
    half = 1.96 / math.sqrt(max(len(pairs) * min(rank, float(g.shape[1])) - 3, 0.5))
    return Measured(value, math.tanh(z - half), math.tanh(z + half), len(pairs))


def findings(order: Order) -> list[Finding]:
    """Whether the data is sorted, as far as batches tell.

    >>> print(findings(Order(Measured(60.0, 55.0, 66.0, 28), Measured(0.5, 0.4, 0.6, 27), 64))[0].what)
    batches are no fair samples: 64 examples of one count as 1.1, and the next one's gradient is like it (0.50)
    """
    design, lag = order.design, order.lag
    if not (design.low > CLUSTERED or lag.low > REPEATING):
        return []
    alike = f", and the next one's gradient is like it ({lag.value:.2f})" if lag.low > 0 else ""
    return [
        Finding(
            "sorted data",
            f"batches are no fair samples: {order.batch_size} examples of one count as {order.effective:.2g}{alike}",
            "critical" if design.low > GRAVE else "warning",
            design if design.low > CLUSTERED else lag,
            f"a design effect above {CLUSTERED:g}, or gradients that go with the last ones by more than {REPEATING:g}",
            "Kish 1965", "8.1.3", "shuffle the examples, anew before each epoch", remedy={"shuffle": True},
        )
    ]  # fmt: skip


class Resampling(NamedTuple):
    """Losses at one theta on examples that were seen before and on new ones, and by how much these are above."""

    seen: Measured
    unseen: Measured
    bias: Measured


def resampling(seen: Tensor, unseen: Tensor) -> Resampling:
    """How biased a gradient is that is taken on examples for the second time, from losses at one theta.

    In the first epoch each batch is new, and its gradient one of the generalisation error; later ones are of the
    training error (section 8.1.3). `seen: (b,)` and `unseen: (c,)` are losses of examples, or of batches; what is
    unseen may be later in the epoch or held out.

    >>> print(resampling(torch.tensor([0.9, 1.0, 1.1]), torch.tensor([1.4, 1.5, 1.6])).bias)
    0.500 (0.273 to 0.727)
    """
    return Resampling(mean(seen), mean(unseen), difference(unseen, seen))


def findings_of_resampling(found: Resampling) -> list[Finding]:
    """A note where the loss on what was seen says too much.

    >>> print(findings_of_resampling(resampling(torch.tensor([0.9, 1.0, 1.1]), torch.tensor([1.4, 1.5, 1.6])))[0].what)
    the loss is 1 on examples that were seen before and 1.5 on new ones
    """
    if not found.bias.low > 0:
        return []
    what = (
        f"the loss is {found.seen.value:.3g} on examples that were seen before and {found.unseen.value:.3g} on new ones"
    )
    return [
        Finding(
            "resampling bias", what, "note", found.bias, "a loss on new examples that is higher",
            "Goodfellow et al. 2016", "8.1.3", "judge by held-out data; more data helps more than more epochs",
        )
    ]  # fmt: skip
