"""How a signal goes through the layers of a module, forward and back (sections 8.2.5 and 8.4)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.challenges.passes import there_and_back
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly, mean, ratio
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import looked_into


class Layer(NamedTuple):
    """The signal at one layer's outputs; `ratio` is its gradient over the last layer's, in length."""

    name: str
    moment: Measured  # the mean square of its outputs
    variance: Measured  # over the examples
    gradient: Measured  # the root mean square, over the examples, of the length of the gradient by the outputs
    ratio: Measured
    weight_gradient: Measured | None  # the root mean square of the entries of the gradient by its weights


class Recurrent(NamedTuple):
    """A recurrent layer: the spectral radius of what it repeats, and how much of the gradient reaches its first step.

    `first` is the gradient by the first step's input over that by the step which the loss feels most.
    """

    name: str
    radius: float
    steps: int
    first: Measured


class Signal(NamedTuple):
    """The signal through the layers in the order of their calls, from "input" on where the inputs are real numbers."""

    layers: tuple[Layer, ...]
    recurrent: tuple[Recurrent, ...] = ()

    @property
    def weighted(self) -> tuple[Layer, ...]:
        """The layers without the input, whose units are not the net's to choose."""
        return tuple(layer for layer in self.layers if layer.name != "input")

    @property
    def growth(self) -> Measured:
        """λ = log(|g_0| / |g_L|) / L, from the last layer down to the first: 0 where gradients keep their length."""
        depth = len(self.weighted) - 1
        return self.weighted[0].ratio.through(lambda r: _log(r) / depth) if depth > 0 else exactly(0.0)


def _log(x: float) -> float:
    return math.log(x) if 0 < x < math.inf else math.copysign(math.inf, x - 1)


def signal(network: Network, *batches: Batch) -> Signal:
    """Measures second moments forward and gradients backward at each call of each layer, on every example.

    Layers are the parts with weights of their own; the second call of one is "name (2)". A pass there and back a
    batch. Raises DiagnosisError where there is nothing to measure.

    >>> module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    >>> found = signal(Network(module, nn.functional.mse_loss), Batch(torch.randn(16, 8), torch.zeros(16, 1)))
    >>> [layer.name for layer in found.layers]
    ['input', '0', '1']
    """
    if not batches:
        raise DiagnosisError("no batch was given: the signal is measured on examples, give at least one batch")
    heard, whole = _Heard(), type(looked_into(network.module)).__name__
    for batch in batches:
        heard.start(len(batch))
        passed = there_and_back(network, batch, heard)
        for name, g in passed.gradients.items():
            if g.dim() > 1:
                heard.weights[name.rpartition(".")[0] or whole].append(float(g.double().square().mean()))
    names = [name for name in heard.forward if len(heard.backward[name]) == len(batches)]
    if not names:
        raise DiagnosisError("no layer with weights has a gradient on these batches: is the model all frozen?")
    last = heard.backward[names[-1]]
    return Signal(tuple(heard.layer(name, last) for name in names), tuple(heard.recurrences()))


class _Heard:
    """What is heard of the layers during the passes: for each call of each, tensors (b,) of its examples."""

    def __init__(self) -> None:
        self.b = 1  # examples in the batch at hand
        self.calls: Counter[str] = Counter()
        self.forward: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.backward: dict[str, list[Tensor]] = defaultdict(list)
        self.weights: dict[str, list[float]] = defaultdict(list)
        self.times: dict[str, list[Tensor]] = defaultdict(list)  # (b, T)
        self.repeated: dict[str, nn.RNNBase] = {}

    def start(self, b: int) -> None:
        self.b = b
        self.calls.clear()

    def __call__(self, name: str, part: nn.Module, z: Tensor) -> None:
        if name.endswith(":in"):
            assert isinstance(part, nn.RNNBase)
            self._sequence(name.removesuffix(":in"), part, z)
            return
        name = name or type(part).__name__
        self.calls[name] += 1
        key = name if self.calls[name] == 1 else f"{name} ({self.calls[name]})"
        rows = _rows(z.detach(), self.b).double()
        apart = (rows - rows.mean(0)).square().mean(1) * len(rows) / max(len(rows) - 1, 1)
        self.forward[key].append((rows.square().mean(1), apart))
        if z.requires_grad:
            _listen(z, lambda g: self.backward[key].append(_each(_rows(g, self.b), self.b)))

    def _sequence(self, name: str, part: nn.RNNBase, x: Tensor) -> None:
        if x.dim() == 3 and x.requires_grad:
            self.repeated[name] = part
            time = 1 if part.batch_first else 0
            _listen(x, lambda g: self.times[name].append(_squares(g.movedim(time, 1))))

    def layer(self, key: str, last: list[Tensor]) -> Layer:
        moments, apart = (torch.cat(draws) for draws in zip(*self.forward[key], strict=True))
        mine, others = _paired(self.backward[key], last)
        weights = self.weights.get(key.partition(" (")[0])
        return Layer(
            key,
            mean(moments),
            mean(apart),
            mean(mine).through(_root),
            ratio(mine, others).through(_root),
            mean(torch.tensor(weights)).through(_root) if weights else None,
        )

    def recurrences(self) -> list[Recurrent]:
        found = []
        for name, part in self.repeated.items():
            steps = min((times.shape[1] for times in self.times[name]), default=0)
            if steps > 1:
                times = torch.cat([times[:, :steps] for times in self.times[name]])
                most = times[:, times.mean(0).argmax()]
                found.append(Recurrent(name, radius(part), steps, ratio(times[:, 0], most).through(_root)))
        return found


def radius(part: nn.RNNBase) -> float:
    """The spectral radius of the weights that a recurrent layer repeats; of its candidate, where it has gates.

    >>> layer = nn.RNN(2, 2)
    >>> _ = nn.init.constant_(layer.weight_hh_l0, 0.3)
    >>> round(radius(layer), 6)
    0.6
    """
    repeated = [p.detach() for name, p in part.named_parameters(recurse=False) if name.startswith("weight_hh")]
    candidates = [w if isinstance(part, nn.RNN) else w[2 * part.hidden_size : 3 * part.hidden_size] for w in repeated]
    square = [w.double().cpu() for w in candidates if w.shape[0] == w.shape[1]]  # a projected LSTM's are not
    return max((float(torch.linalg.eigvals(w).abs().max()) for w in square), default=math.nan)


def _rows(z: Tensor, b: int) -> Tensor:
    """An answer as (b, ...), wherever it has its examples; (1, ...) where they cannot be told apart."""
    if z.dim() and z.shape[0] % b == 0 and z.numel():
        return z.reshape(b, -1)
    return z.transpose(0, 1).reshape(b, -1) if z.dim() > 1 and z.shape[1] == b else z.reshape(1, -1)


def _listen(z: Tensor, hear: Callable[[Tensor], None]) -> None:
    register: Any = z.register_hook
    register(hear)


def _each(g: Tensor, b: int) -> Tensor:
    """The squared lengths of the gradients of the examples' own losses, of which the loss is the mean: (b,) or (1,)."""
    return _squares(g) * b * len(g)


def _squares(g: Tensor) -> Tensor:
    """The squared lengths of the last dimension, in double precision, for squares of what has vanished underflow."""
    lengths: Tensor = torch.linalg.vector_norm(g.detach(), dim=-1, dtype=torch.float64)
    return lengths.square().cpu()


def _paired(a: list[Tensor], b: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Draws of two layers, example by example, or batch by batch where one knows no examples."""
    pairs = [(x, y) if len(x) == len(y) else (x.mean()[None], y.mean()[None]) for x, y in zip(a, b, strict=True)]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def _root(x: float) -> float:
    return math.sqrt(max(x, 0.0))
