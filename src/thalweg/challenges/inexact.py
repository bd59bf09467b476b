"""Inexact gradients (sections 8.1.3 and 8.2.6): how noisy they are, and how many examples a batch should have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn

from thalweg.challenges.finding import Finding
from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import ProblemError
from thalweg.core.measured import CONFIDENCE, Measured, exactly, fieller, mean, ratio
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import undisturbed

NOISY = 0.1  # of the noise scale: a batch that is smaller is nearly noise
STUCK = 0.2  # of the noise scale: enough to be noisy for a run that has learned hardly anything
WASTEFUL = 3.0  # noise scales: beyond, examples buy hardly any progress
HARDLY = 0.1  # of the first loss: where less has gone after an epoch, hardly anything was learned
TINY = 1e-300
SOURCE = "McCandlish et al. 2018"


class MeanEstimation(nn.Module):
    """A problem whose noise is known: f = E |w - x|²/2 for examples x of mean mu and covariance Sigma.

    The gradient of an example is w - x: |G|² = |w - mu|², tr Sigma that of the examples. With the values here and w a
    unit away from mu, tr Sigma = 5.3125 and the noise scale is as much; with w = mu there is noise only.

    >>> problem = MeanEstimation(away=1.0)
    >>> problem.trace, problem.squared
    (5.3125, 1.0)
    """

    variances = (4.0, 1.0, 0.25, 0.0625)

    def __init__(self, away: float) -> None:
        super().__init__()
        self.trace, self.squared = sum(self.variances), away * away
        self.w = nn.Parameter(torch.tensor([away, 0.0, 0.0, 0.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """w - x for examples `x: (b, 4)`."""
        return self.w - x

    @staticmethod
    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        """Half of the mean square."""
        return outputs.square().sum(1).mean() / 2

    def drawn(self, b: int, seed: int) -> Batch:
        """A batch of b examples with mean mu = 0."""
        x = torch.randn(b, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return Batch(x * torch.tensor(self.variances, dtype=torch.float64).sqrt(), torch.zeros(b))


class Draws(NamedTuple):
    """Gradients `g: (k, n)` of k microbatches of `size` examples each, at one theta: independent draws."""

    g: Tensor
    size: int


class Noise(NamedTuple):
    """tr Sigma of one example's gradient, |G|², and the noise scale tr Sigma / |G|²; of a batch in use.

    The noise scale is the critical batch size to first order: batches of as many make half of the progress a step that
    the exact gradient would.
    """

    trace: Measured
    squared: Measured
    scale: Measured  # examples; infinite where there may be no gradient at all
    batch_size: int

    def error(self, b: int | None = None) -> Measured:
        """The root of the mean squared error of the gradient of b examples: it falls with the root of b (8.1.3)."""
        return self.trace.through(lambda trace: math.sqrt(trace / (b or self.batch_size)))


def microbatch_gradients(network: Network, batches: Iterable[Batch], parts: int = 8, seed: int = 0) -> Draws:
    """The gradients at the network's theta of every batch cut into `parts` of one size; examples left over are left.

    Plain backward passes, so that it holds for every module that trains: BatchNorm uses the statistics of the part,
    dropout draws anew for each. Nothing of the module changes. Raises ProblemError where a batch has too few examples.

    >>> problem = MeanEstimation(1.0)
    >>> draws = microbatch_gradients(Network(problem, problem.loss), [problem.drawn(64, seed=0)])
    >>> draws.g.shape, draws.size
    (torch.Size([8, 4]), 8)
    """
    size = 0
    found: list[Tensor] = []
    with undisturbed(network.module):
        for batch in batches:
            size = size or len(batch) // parts
            if not size:
                raise ProblemError(
                    f"a batch of {len(batch)} examples was given to be cut into {parts}: give at least {parts}"
                )
            for start in range(0, len(batch) - size + 1, size):
                drawn = (seed * 0x9E3779B1 + len(found)) % 2**63
                torch.default_generator.manual_seed(drawn)  # torch.manual_seed queues a call for CUDA, with its stack
                if network.theta.is_cuda:
                    torch.cuda.manual_seed(drawn)
                part = Batch(batch.inputs[start : start + size], batch.targets[start : start + size])
                found.append(value_and_gradient(network.on(part), network.theta)[1].clone())
    return Draws(torch.stack(found), size)


class Moments(NamedTuple):
    """Of draws with covariance C = Sigma/size: what their inner products say."""

    trace: float  # tr C
    squared: float  # |G|², without bias; it may come out negative
    along: float  # GᵀCG/|G|², of the mean of the draws for G
    inner: float  # GᵀCG, without bias
    tr2: float  # tr C²
    own: Tensor  # (k,), each draw's share of the trace


def moments_of(gram: Tensor) -> Moments:
    """`gram: (k, k)` holds the inner products of the draws."""
    k = len(gram)
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    own = centred.diag()
    tr2 = float((centred - torch.diag(own)).square().sum()) / (k * (k - 1))
    along = float(gram.mean(1).var()) / max(float(gram.mean()), TINY)
    others = (gram.sum(1) - gram.diag()) / (k - 1)  # each draw's inner product with the mean of the others
    inner = max(float(others.var()) - tr2 / (k - 1), 0.0)
    return Moments(float(own.sum()) / (k - 1), float(others.mean()), along, inner, tr2, own)


def gram_of(draws: Draws) -> Tensor:
    """The inner products of the draws: (k, k), in double precision."""
    parts = [part.double() for part in torch.split(draws.g, 2**20, 1)]
    return torch.stack([part @ part.T for part in parts]).sum(0).cpu()


def gradient_noise(draws: Draws, batch_size: int) -> Noise:
    """The noise of gradients from draws of them, and what it is for batches of `batch_size`.

    |G|² and the noise scale are score intervals: what is asked is for which values the draws would be no surprise, so
    that they hold where G may be 0 too: then the scale has no upper end. A ratio of means, never a mean of ratios.

    Raises ProblemError for fewer than 3 draws.

    >>> problem = MeanEstimation(1.0)
    >>> draws = microbatch_gradients(Network(problem, problem.loss), [problem.drawn(4096, seed=0)], parts=64)
    >>> noise = gradient_noise(draws, batch_size=16)
    >>> print(noise.scale, "|", noise.error())
    4.99 (3.77 to 6.66) | 0.567 (0.500 to 0.648)
    """
    k = len(draws.g)
    if k < 3:
        raise ProblemError(f"{k} microbatches were given: an error can be told from 3 or more")
    moments = moments_of(gram_of(draws))
    trace, squared = draws.size * moments.trace, moments.squared
    if not trace > TINY:  # no noise at all, or no numbers
        unknown = Measured(math.nan, 0.0, math.inf, k)
        return Noise(exactly(trace), exactly(max(squared, 0.0)), exactly(0.0) if squared > 0 else unknown, batch_size)
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, k - 1)) ** 2
    # Each draw is left out once, on a scale of logarithms, where the error of a trace is more nearly normal.
    without = (draws.size * (moments.trace * (k - 1) - k / (k - 1) * moments.own) / (k - 2)).clamp_min(TINY).log()
    traces = mean(k * math.log(max(trace, TINY)) - (k - 1) * without).through(exp_of)
    # The variance of the estimate of |G|² is 4 |G|² along/k + 2 tr C²/(k (k - 1)).
    square, slope = squared**2 - t2 * 2 * moments.tr2 / (k * (k - 1)), 2 * t2 * moments.along / k
    low, high = fieller(1.0, squared + slope, square)
    linear = trace * (squared + slope)
    lowest, _ = fieller(square, linear, trace**2 - (trace - traces.low) ** 2)
    _, highest = fieller(square, linear, trace**2 - (traces.high - trace) ** 2)
    scale = Measured(trace / squared if squared > 0 else math.inf, lowest, highest, k)
    return Noise(traces._replace(value=trace), Measured(max(squared, 0.0), low, high, k), scale, batch_size)


def exp_of(x: float) -> float:
    """e to the x, that does not overflow."""
    return math.exp(min(x, 700.0))


def without_bias(draws: Draws) -> tuple[float, float]:
    """(tr Sigma, |G|²) from two draws or more, for `over_training`; |G|² may come out negative, and is not to be cut.

    It is the pair of equations A.2 and A.3 of McCandlish et al. 2018, for batches of one draw and of all of them.

    >>> without_bias(Draws(torch.tensor([[1.0, 1.0], [1.0, -2.0]]), size=4))
    (18.0, -1.0)
    """
    moments = moments_of(gram_of(draws))
    return draws.size * moments.trace, moments.squared


def over_training(pairs: Tensor, batch_size: int) -> Noise:
    """The noise over a stretch of training from `pairs: (m, 2)` of (tr Sigma, |G|²), one a step looked at.

    Means of each are taken, then their ratio. What changes over the stretch counts as error.

    >>> noise = over_training(torch.tensor([[5.0, 1.2], [5.6, -0.1], [5.2, 1.9], [5.4, 1.0]]), batch_size=8)
    >>> print(noise.scale)
    5.30 (2.15 to inf)
    """
    trace, squared = mean(pairs[:, 0]), mean(pairs[:, 1])
    trace, squared = (x.through(lambda x: max(x, 0.0)) for x in (trace, squared))
    return Noise(trace, squared, ratio(pairs[:, 0], pairs[:, 1]), batch_size)


def findings(noise: Noise, fallen: Measured | None = None) -> list[Finding]:
    """What the noise means for the batch in use; `fallen` is the share of the first loss that has gone in a run so far.

    It is an alarm where hardly anything was learned in a run of an epoch or more, and before the first step only where
    there is no gradient to be seen: a small batch is none by itself, for its lr may be low. Late in training every
    gradient is mostly noise, for G goes to 0 at a minimum.

    >>> trace, squared = Measured(90.0, 80.0, 101.0, 64), Measured(0.1, 0.08, 0.12, 64)
    >>> print(findings(Noise(trace, squared, Measured(900.0, 700.0, 1200.0, 64), batch_size=8))[0].what)
    a batch of 8 is 0.89 % of the noise scale: its gradient is noise of 3.35 around a gradient of 0.316; 32 halve that
    """
    if noise.batch_size > WASTEFUL * noise.scale.high:
        return [_too_large(noise)]
    stuck = fallen is not None and fallen.high < HARDLY
    only = fallen is None and noise.scale.high == math.inf
    limit = noise.batch_size / (STUCK if stuck else NOISY)
    if noise.scale.low > limit:
        return [_noisy(noise) if stuck or only else _harmless(noise)]
    return [_unclear(noise, limit)] if (stuck or only) and noise.scale.value > limit else []


def _noisy(noise: Noise) -> Finding:
    b = noise.batch_size
    return Finding(
        "gradient noise", _described(noise), "warning", noise.scale,
        f"a batch under {STUCK:g} of the noise scale while under {HARDLY:.0%} of the loss is gone", SOURCE, "8.1.3",
        f"take batches of {4 * b}, which halves the noise, or lower lr; where no size helps, look at whether inputs "
        "say anything about the targets", remedy={"batch_size": 4 * b},
    )  # fmt: skip


def _harmless(noise: Noise) -> Finding:
    return Finding(
        "gradient noise", _described(noise), "note", noise.scale, f"a batch under {NOISY:g} of the noise scale", SOURCE,
        "8.1.3", "nothing while the loss falls: a low lr averages over the noise, and near a minimum all is noise",
    )  # fmt: skip


def _described(noise: Noise) -> str:
    b, error = noise.batch_size, noise.error().value
    if noise.scale.high == math.inf:
        return f"noise only: no gradient is to be seen in the noise of {error:.3g} that a batch of {b} has"
    share = 100 * b / max(noise.scale.value, noise.scale.low)
    return (
        f"a batch of {b} is {share:.2g} % of the noise scale: its gradient is noise of {error:.3g} around a gradient "
        f"of {math.sqrt(noise.squared.value):.3g}; {4 * b} halve that"
    )


def _too_large(noise: Noise) -> Finding:
    return Finding(
        "batch too large",
        f"the noise scale is {noise.scale}: that many make half of the progress a step that {noise.batch_size} make",
        "note", noise.scale, f"a batch over {WASTEFUL:g} noise scales", SOURCE, "8.1.3",
        "smaller batches reach the same with fewer examples; the noise scale grows as training goes on, so look again",
    )  # fmt: skip


def _unclear(noise: Noise, limit: float) -> Finding:
    return Finding(
        "gradient noise", f"the noise scale is only known to be above {noise.scale.low:.3g}", "unclear", noise.scale,
        f"a noise scale above {limit:.3g}", SOURCE, "8.1.3",
        f"measure on four times as many batches: {noise.scale.n} draws say too little about |G|²",
    )  # fmt: skip
