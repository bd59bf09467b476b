"""Units that are dead, and units that are saturated (sections 6.3 and 8.2.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from thalweg.challenges.finding import Finding, Severity
from thalweg.challenges.passes import layers, watched
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, mean
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import looked_into

MANY, MOST = 0.5, 0.75  # of a layer's units dead: a warning, critical; trained nets have a fourth
FEW = 30  # examples: with fewer, what never fired in them may fire on one of ten
FLAT = 0.01  # of its steepest slope: |tanh| above .995, a sigmoid beyond .0025 or .9975
HALF, NEARLY_ALL = 0.5, 0.9  # of a layer's answers in the tails: a warning, critical

F = nn.functional
_KINDS: dict[Any, str] = {
    **dict.fromkeys((F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), "relu"),
    **dict.fromkeys((torch.tanh, torch.tanh_, F.tanh, Tensor.tanh, Tensor.tanh_), "tanh"),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, F.sigmoid, Tensor.sigmoid, Tensor.sigmoid_), "sigmoid"),
    **dict.fromkeys((torch.softmax, F.softmax, Tensor.softmax), "softmax"),
}
_CLAMPS = {
    *(torch.clamp, torch.clamp_, torch.clamp_min, torch.clip, F.hardtanh),
    *(Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clip),
}
_PRODUCTS = {torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.multiply}  # and *, which torch calls mul
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {  # of the answer, as a part of the steepest
    "tanh": lambda y: 1 - y.square(),
    "sigmoid": lambda y: 4 * y * (1 - y),
    "softmax": lambda y: 4 * y * (1 - y),
}


class Activation(NamedTuple):
    """The units behind one activation function: how many there are, are dead, and how far they are saturated.

    `dead` is the part of the units that are 0 on every example; below it may be less by as many as Chao (1984) says
    that fire, but too seldom for this sample. A dead unit fires on less than 3 / n of the examples (the rule of three,
    95 %). `saturated` is the part of the answers where the slope is below 1 % of the steepest. A "gate" multiplies
    another signal, and "output" units have no layer behind them: both are saturated in healthy nets.
    """

    name: str  # "relu after fc1"
    layer: str  # the layer with weights before it
    kind: str  # relu, tanh, sigmoid, softmax
    role: str  # hidden, gate, output
    units: int
    dead: Measured
    zeros: Measured  # the part of the answers that are 0: about a half is healthy for relu
    saturated: Measured


class Units(NamedTuple):
    """Every activation function that was heard, in the order of the calls."""

    activations: tuple[Activation, ...]


def units(network: Network, *batches: Batch) -> Units:
    """Listens to the activation functions while a network is called on batches, without going back.

    Heard are, behind the first layer, relu, relu6, clamps at 0, tanh, sigmoid and softmax, as modules, functions and
    methods; not those inside of one call to torch: nn.RNN, nn.LSTM, nn.GRU and attention. Units are the channels behind
    a convolution and the last dimension behind any other layer. Raises DiagnosisError where there is no example.

    >>> module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> _ = nn.init.constant_(module[0].bias[:3], -100.0)
    >>> (found,) = units(Network(module, nn.functional.mse_loss), Batch(torch.randn(99, 4), torch.zeros(99, 1)))[0]
    >>> found.name, found.units, found.dead.value * found.units
    ('relu after 0', 8, 3.0)
    """
    if not sum(len(batch) for batch in batches):
        raise DiagnosisError("no examples were given: units are dead or alive on examples, give at least one batch")
    module = looked_into(network.module)
    listening = _Listening()
    for batch in batches:
        if not len(batch):
            continue
        listening.start(len(batch))
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            watched(module, layers(module), listening.layer),
            listening,
        ):
            module(batch.inputs.clone())  # it may write to its inputs
    return Units(tuple(heard.activation(listening.last_layer) for heard in listening.heard.values()))


class _Listening(TorchFunctionMode):
    """Hears the calls of activation functions, and which of their answers multiply another signal."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, _Heard] = {}
        self.last_layer = 0

    def start(self, b: int) -> None:
        self.b, self.calls, self.at, self.before, self.channels = b, Counter[str](), 0, "the inputs", False
        self.alive: dict[int, tuple[_Heard, Tensor]] = {}

    def layer(self, name: str, part: nn.Module, _: Tensor) -> None:
        self.before = name.removesuffix(":in") or type(part).__name__
        self.channels = isinstance(part, nn.modules.conv._ConvNd)
        self.at += 1
        self.last_layer = max(self.last_layer, self.at)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            self._multiplied(args)
        answer = func(*args, **kwargs)
        kind = "relu" if func in _CLAMPS and _at_zero(args[1:], kwargs) else _KINDS.get(func)
        if kind is not None and self.at and isinstance(answer, Tensor) and answer.dim() > 0 and answer.numel():
            self._hear(kind, answer)
        return answer

    def _multiplied(self, args: Any) -> None:
        for mine, other in (args[:2], args[1::-1]):
            known = self.alive.get(id(mine))
            if known and isinstance(other, Tensor) and other.requires_grad and other.dim() > 1:
                known[0].role = "gate"

    def _hear(self, kind: str, answer: Tensor) -> None:
        name = f"{kind} after {self.before}"
        self.calls[name] += 1
        if self.calls[name] > 1:
            name = f"{name} ({self.calls[name]})"
        heard = self.heard.setdefault(name, _Heard(name, self.before, kind))
        heard.at = self.at
        heard.hear(answer.detach(), self.b, 1 if self.channels and answer.dim() > 2 else answer.dim() - 1)
        self.alive[id(answer)] = heard, answer  # alive, so that no other tensor gets its id


def _at_zero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    lower = args[0] if args else kwargs.get("min", kwargs.get("min_val"))
    return isinstance(lower, int | float) and lower == 0


class _Heard:
    """What is heard of one activation function: how often each unit fired, and how much of each example is flat."""

    def __init__(self, name: str, layer: str, kind: str) -> None:
        self.name, self.layer, self.kind, self.role, self.at = name, layer, kind, "hidden", 0
        self.fired: Tensor | None = None  # (units,), on how many examples
        self.zeros: list[Tensor] = []
        self.flat: list[Tensor] = []

    def hear(self, y: Tensor, b: int, dim: int) -> None:
        rows = y.movedim(dim, -1)
        rows = rows.reshape(b if y.shape[0] % b == 0 else 1, -1, rows.shape[-1])  # (b, positions, units)
        fired = (rows != 0).any(1).sum(0).cpu()
        if self.fired is None or len(self.fired) == len(fired):
            self.fired = fired if self.fired is None else self.fired + fired
        self.zeros.append((rows == 0).double().mean((1, 2)).cpu())
        flat = _SLOPES[self.kind](rows) < FLAT if self.kind in _SLOPES else torch.zeros_like(rows, dtype=torch.bool)
        self.flat.append(flat.double().mean((1, 2)).cpu())

    def activation(self, last_layer: int) -> Activation:
        assert self.fired is not None
        zeros, count = torch.cat(self.zeros), len(self.fired)
        never, once, twice = (int((self.fired == k).sum()) for k in (0, 1, 2))
        unseen = once**2 / 2 / twice if twice else once * (once - 1) / 2
        dead = Measured(never / count, max(never - unseen, 0.0) / count, never / count, len(zeros))
        role = "output" if self.at >= last_layer and self.role == "hidden" else self.role
        return Activation(self.name, self.layer, self.kind, role, count, dead, mean(zeros), mean(torch.cat(self.flat)))


def findings(measured: Units) -> list[Finding]:
    """Layers whose units are dead, or saturated; a few that are dead are a note."""
    found = []
    for activation in measured.activations:
        if activation.kind == "relu" and activation.dead.value:
            found.append(_dead(activation))
        elif activation.kind in ("tanh", "sigmoid") and activation.role == "hidden":
            found += _saturated(activation)
    return found


def _dead(a: Activation) -> Finding:
    count, n = round(a.dead.value * a.units), a.dead.n
    severity: Severity = "critical" if a.dead.low > MOST else "warning" if a.dead.low > MANY else "unclear"
    if n < FEW and a.dead.value > MANY:
        severity = "unclear"
    elif a.dead.value <= MANY:
        severity = "note"
    advice = {
        "note": "nothing: a few are common",
        "unclear": f"look at more than {n} examples",
    }.get(severity, "lower lr, begin with biases of 0 and He weights, or take LeakyReLU or GELU")
    return Finding(
        "dead units",
        f"{count} of {a.units} units are 0 on all {n} examples: each fires on less than {min(3 / n, 1):.1%}",
        severity,
        a.dead,
        f"a half of a layer ({MOST:.0%}: critical)",
        "Lu et al. 2020; rule of three, Hanley and Lippman-Hand 1983",
        "6.3",
        advice,
        a.layer,
        {"init": "he_normal"} if severity in ("warning", "critical") else {},
    )


def _saturated(a: Activation) -> list[Finding]:
    if a.saturated.value <= HALF:
        return []
    low = a.saturated.low
    severity: Severity = "critical" if low > NEARLY_ALL else "warning" if low > HALF else "unclear"
    clear = severity != "unclear"
    return [
        Finding(
            "saturated units",
            f"{a.saturated.value:.0%} of the answers of {a.kind} are where its slope is below 1 % of the steepest",
            severity,
            a.saturated,
            f"a half of them ({NEARLY_ALL:.0%}: critical)",
            "Glorot and Bengio 2010",
            "6.3",
            "begin with smaller weights (Glorot), scale the inputs to variance 1, or put a normalisation layer before"
            if clear
            else f"look at more than {a.saturated.n} examples",
            a.layer,
            {"init": "glorot_normal"} if clear else {},
        )
    ]
