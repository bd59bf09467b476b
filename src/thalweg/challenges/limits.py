"""Limits of the hardware (section 8.1.3): how large a batch can be, how large it should be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding
from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly, ratio
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import undisturbed
from thalweg.learning.batches import Examples

MARGIN = 0.9  # of the largest batch that was tried and fitted: memory is in pieces, and the optimizer wants some
CLOSE = 1.1  # between the largest that fitted and the smallest that did not
DRAWS = 3  # batches of a size that are tried where nobody says which examples are long
VAGUE = 4.0  # between the ends of an interval: beyond, a recommendation would be a guess
SOURCE = "McCandlish et al. 2018"
_ALLOCATORS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


class Memory(NamedTuple):
    """The largest batch that fits, whatever examples it is of; infinite where no limit was met."""

    largest: float  # with the margin
    longest: float  # of the longest example over the mean; nan where lengths are not known
    tried: int  # the largest size that was tried and fitted


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, and nothing else.

    >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), out_of_memory(RuntimeError("shapes do not fit"))
    (True, False)
    """
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATORS)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def fits(step: Callable[[Tensor], object], indices: Tensor) -> bool:
    """Whether a step on the examples of `indices: (b,)` goes through; any other exception than of memory is raised.

    >>> fits(lambda indices: None, torch.arange(3))
    True
    """
    try:
        step(indices)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def largest_batch(
    step: Callable[[Tensor], object], n: int, lengths: Tensor | None = None, cap: int = 8192, seed: int = 0
) -> Memory:
    """The largest batch of n examples that fits: sizes are doubled until one does not, then halved in between.

    With `lengths: (n,)` a batch is tried of the longest example over and over: what fits then always does. Without,
    some batches are drawn at random, and a rare long example may be in none of them: `findings` warns of that. No size
    is above `cap` or n. Raises DiagnosisError where not even one example fits.

    >>> def step(indices):
    ...     if len(indices) > 100:
    ...         raise MemoryError
    >>> largest_batch(step, n=1000, lengths=torch.ones(1000))
    Memory(largest=86, longest=1.0, tried=96)
    """
    cap = min(cap, n)
    generator = torch.Generator().manual_seed(seed)

    def goes(b: int) -> bool:
        if lengths is not None:
            return fits(step, torch.full((b,), int(lengths.argmax())))
        return all(fits(step, torch.randperm(n, generator=generator)[:b]) for _ in range(DRAWS))

    good, bad = 0, 1
    while bad <= cap and goes(bad):
        good, bad = bad, min(2 * bad, cap) if bad < cap else cap + 1
    if not good:
        raise DiagnosisError("not even one example fits into memory: take a smaller model, or cut long examples")
    longest = math.nan if lengths is None else float(lengths.max() / lengths.double().mean())
    if bad > cap:
        return Memory(math.inf, longest, good)
    while bad > CLOSE * good and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if goes(middle) else (good, middle)
    return Memory(max(1, int(MARGIN * good)), longest, good)


def gradient_step(network: Network, data: Examples) -> Callable[[Tensor], object]:
    """A step for `largest_batch` and `throughput`: the gradient on some examples; nothing of the network changes.

    >>> from thalweg.learning.batches import examples
    >>> network = Network(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss)
    >>> fits(gradient_step(network, examples((torch.ones(9, 2), torch.ones(9, 1)))), torch.arange(4))
    True
    """

    def step(indices: Tensor) -> None:
        with undisturbed(network.module):
            batch = data.take(indices)
            device = network.theta.device
            value_and_gradient(network.on(Batch(batch.inputs.to(device), batch.targets.to(device))), network.theta)
        if network.theta.is_cuda:
            torch.cuda.synchronize(network.theta.device)

    return step


class Throughput(NamedTuple):
    """How long a step takes: of `sizes`, the seconds (sizes, rounds); and the batch at which time begins to grow."""

    sizes: Sequence[int]
    seconds: Tensor
    knee: Measured  # examples: what a step costs in any case, in examples

    def rate(self, i: int) -> Measured:
        """Examples a second at the i-th size."""
        taken = self.seconds[i].double()
        return ratio(torch.full_like(taken, self.sizes[i]), taken)


def throughput(
    step: Callable[[int], object], clock: Callable[[], float], sizes: Sequence[int], rounds: int = 8
) -> Throughput:
    """How the time of a step grows with the batch: `step(b)` is run on b examples, after one that does not count.

    A step takes about a + c b seconds; doubling a batch is nearly free under the knee a/c and buys nothing far above
    it. a is from the smallest size, c from the two largest, in every round anew; sizes take turns, so that a machine
    that is busy for a while is so for all.

    >>> now = [0.0]
    >>> def step(b):
    ...     now[0] += 0.010 + 0.0001 * b
    >>> throughput(step, lambda: now[0], [1, 8, 64, 512]).knee.value.__round__(3)
    100.0
    """
    if len(sizes) < 3 or list(sizes) != sorted(set(sizes)) or rounds < 2:
        raise DiagnosisError(f"sizes {list(sizes)} in {rounds} rounds were given: give 3 that rise, 2 rounds")
    seconds = torch.empty(len(sizes), rounds, dtype=torch.float64)
    for size in sizes:
        step(size)
    for turn in range(rounds):
        for i, size in enumerate(sizes):
            start = clock()
            step(size)
            seconds[i, turn] = clock() - start
    slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return Throughput(sizes, seconds, ratio(seconds[0] - slope * sizes[0], slope))


def recommended(memory: Memory, knee: Measured, scale: Measured) -> Measured:
    """The batch that is soonest done: the root of knee times noise scale, or what fits.

    Steps to a loss go with 1 + scale/B (McCandlish et al. 2018, equation 2.11), and the time of one with knee + B:
    their product is least at the root.

    >>> knee, scale = Measured(100.0, 90.0, 110.0, 8), Measured(400.0, 300.0, 500.0, 32)
    >>> print(recommended(Memory(math.inf, 1.0, 8192), knee, scale))
    200 (164 to 235)
    """

    def best(knee: float, scale: float) -> float:
        root = 1.0 if not (knee and scale) else math.sqrt(knee) * math.sqrt(scale)
        return max(1.0, min(root, memory.largest))

    return Measured(best(knee.value, scale.value), best(knee.low, scale.low), best(knee.high, scale.high), knee.n)


def findings(memory: Memory, knee: Measured, scale: Measured, batch_size: int) -> list[Finding]:
    """What limits the batch in use, and which one memory, throughput and noise together recommend.

    >>> found = findings(Memory(1000, 1.0, 1111), exactly(100.0), exactly(400.0), batch_size=32)
    >>> print(found[-1].what)
    a batch of 200 is soonest done: a step costs as much as 100 examples more, the noise scale is 400, and 1000 fit
    """
    return [
        *_of_memory(memory, batch_size),
        *_of_throughput(knee, batch_size),
        _of_all(memory, knee, scale, batch_size),
    ]


def _of_memory(memory: Memory, batch_size: int) -> list[Finding]:
    unknown = math.isnan(memory.longest)
    if memory.largest == math.inf or (batch_size <= memory.largest and not unknown):
        return []
    largest = int(memory.largest)
    safe = max(1, largest // 3) if unknown else largest
    what = f"a batch of {batch_size} may not fit: {largest} examples do"
    how = "if none is longer than those that were tried" if unknown else "whichever they are"
    advice = "say how long the examples are (lengths), so that the longest are tried, or " if unknown else ""
    return [
        Finding(
            "memory limit", f"{what if batch_size > safe else f'{largest} examples fit'}, {how}", "warning",
            exactly(memory.largest), f"the largest that was tried, {memory.tried}, less {1 - MARGIN:.0%}",
            "measured here", "8.1.3", f"{advice}take at most {safe} at once, and add up the gradients of several",
            remedy={"batch_size": safe} if batch_size > safe else {},
        )
    ]  # fmt: skip


def _of_throughput(knee: Measured, batch_size: int) -> list[Finding]:
    if batch_size >= knee.low:
        return []
    gain = 2 * (knee.value + batch_size) / (knee.value + 2 * batch_size) if knee.value < math.inf else 2.0
    return [
        Finding(
            "throughput knee", f"{2 * batch_size} examples at once would be {gain:.2g} times as many a second", "note",
            knee, "a batch under what a step costs in any case, in examples", "Godbole et al. 2023", "8.1.3",
            "larger batches are nearly free in time; whether they are of use, the noise scale says",
        )
    ]  # fmt: skip


def _of_all(memory: Memory, knee: Measured, scale: Measured, batch_size: int) -> Finding:
    best = recommended(memory, knee, scale)
    known = best.high <= VAGUE * best.low
    size = round(best.value) if best.value < math.inf else 0
    fit = f"{memory.largest:g} fit" if memory.largest < math.inf else f"{memory.tried} fit, if not more"
    because = f"a step costs as much as {knee.value:.3g} examples more, the noise scale is {scale.value:.3g}, and {fit}"
    near = best.low / 2 <= batch_size <= 2 * best.high
    return Finding(
        "batch size",
        f"{f'a batch of {size} is soonest done' if known else 'which batch is soonest done is not known'}: {because}",
        "note" if known else "unclear", best, "the root of knee times noise scale, or what fits", SOURCE, "8.1.3",
        ("the batch in use is as good" if near else f"take batches of about {size}, and choose lr anew")
        if known else "measure the noise scale on more batches, and the time of larger ones",
        remedy={"batch_size": size} if known and not near else {},
    )  # fmt: skip
