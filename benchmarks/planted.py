"""Runs that are healthy, and runs with one disease planted, on the digits of scikit-learn: each a function of a seed.

What a diagnosis should say of each is known: nothing of the first, one name of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg import Problem, Recipe
from thalweg.learning.risk import accuracy
from thalweg.training.builtin import digits
from thalweg.training.tables import mlp

SIZES = [64, 128, 128, 10]
Pair = tuple[Tensor, Tensor]


class Planted(NamedTuple):
    """How a run is made of a seed, and the names that a diagnosis may give what is wrong with it (none: healthy)."""

    make: Callable[[int], tuple[Problem, Recipe]]
    names: tuple[str, ...] = ()


def task(seed: int, model: Callable[[], nn.Module], change: Callable[[Pair, torch.Generator], Pair] | None = None,
         both: bool = False) -> Problem:  # fmt: skip
    """The digits with another model, and with the training part (and the validation part too) changed."""
    whole, random = digits(seed), torch.Generator().manual_seed(seed)
    parts = [(data.inputs, data.targets) for data in (whole.train, whole.valid)]
    if change is not None:
        parts = [change(part, random) if both or i == 0 else part for i, part in enumerate(parts)]
    return Problem(model, *parts, metric=accuracy, name="digits", epochs=15)


# Models


class Residual(nn.Module):
    """A residual MLP: four blocks x + W2 relu(W1 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(4))
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Of images (b, 64), the logits (b, 10)."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Transformer(nn.Module):
    """The rows of an image as eight tokens; two encoder layers with LayerNorm first; the mean token decides."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(8, 32)
        self.places = nn.Parameter(torch.randn(8, 32) * 0.1)
        layer = partial(nn.TransformerEncoderLayer, 32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList([layer(), layer()])
        self.norm, self.last = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Of images (b, 64), the logits (b, 10)."""
        x = self.tokens(x.view(-1, 8, 8)) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.last(self.norm(x).mean(1))


def convolutional() -> nn.Module:
    """Two convolutions with BatchNorm, and a linear layer."""
    first = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    second = [nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 10))


def deep(activation: Callable[[], nn.Module], init: Callable[[Tensor], object], depth: int = 10) -> nn.Module:
    """Layers of 64 units; the weights of all but the last are initialised by `init`."""
    layers = [part for _ in range(depth) for part in (nn.Linear(64, 64), activation())]
    for part in layers:
        if isinstance(part, nn.Linear):
            init(part.weight)
            nn.init.zeros_(part.bias)
    return nn.Sequential(*layers, nn.Linear(64, 10))


def dying() -> nn.Module:
    """The MLP with nine of ten units of its first layer beyond reach."""
    module = mlp(SIZES)
    first = next(part for part in module.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        first.bias[: int(0.9 * len(first.bias))] = -100.0
    return module


def tanh(gain: float = 1.0) -> nn.Module:
    """An MLP of tanh units, its hidden weights times a gain."""
    module = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10))
    with torch.no_grad():
        for i in (0, 2):
            module[i].weight.mul_(gain)
    return module


def alike() -> nn.Module:
    """The MLP with every weight the same: no unit of a layer ever differs from another."""
    module = mlp(SIZES)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.01)
    return module


# Data


def sorted_by_class(data: Pair, random: torch.Generator) -> Pair:
    """Class by class."""
    order = data[1].argsort(stable=True)
    return data[0][order], data[1][order]


def tenfold(data: Pair, random: torch.Generator) -> Pair:
    """A tenth of the examples, each ten times."""
    return tuple(part[: len(part) // 10].repeat_interleave(10, 0) for part in data)  # type: ignore[return-value]


def few(data: Pair, random: torch.Generator, n: int = 60, noise: float = 0.3) -> Pair:
    """Few examples, blurred: enough to be learnt by heart, not enough to learn from."""
    inputs, targets = data
    inputs = inputs + noise * torch.randn(inputs.shape, generator=random)
    return (inputs[:n], targets[:n]) if len(inputs) > 400 else (inputs, targets)


def mislabelled(data: Pair, random: torch.Generator, part: float = 0.3) -> Pair:
    """A part of the examples with another class than theirs."""
    inputs, targets = data
    wrong = torch.rand(len(targets), generator=random) < part
    other = (targets + torch.randint(1, 10, targets.shape, generator=random)) % 10
    return inputs, torch.where(wrong, other, targets)


def any_label(data: Pair, random: torch.Generator) -> Pair:
    """Classes that have nothing to do with the images."""
    return data[0], torch.randint(0, 10, data[1].shape, generator=random)


def stretched(data: Pair, random: torch.Generator, kappa: float = 1e6) -> Pair:
    """Principal components whose variances fall from 1 to 1 / kappa."""
    whole = digits(0).train.inputs
    centre = whole.mean(0)
    _, s, v = torch.linalg.svd(whole - centre, full_matrices=False)
    components = (data[0] - centre) @ v[:32].T / s[:32] * len(whole) ** 0.5
    return components * torch.logspace(0, -0.5 * torch.log10(torch.tensor(kappa)).item(), 32), data[1]


# Runs


def sgd(lr: float, steps: int = 510, batch_size: int = 32, **more: object) -> Recipe:
    """Plain SGD."""
    return Recipe("sgd", steps, batch_size, {"lr": lr}, **more)


def adam(lr: float = 1e-3, steps: int = 510, **more: object) -> Recipe:
    """Adam."""
    return Recipe("adam", steps, 32, {"lr": lr}, **more)


MLP = partial(mlp, SIZES)
HEALTHY = {
    "SGD, MLP": Planted(lambda seed: (task(seed, MLP), sgd(0.1))),
    "Adam, MLP": Planted(lambda seed: (task(seed, MLP), adam())),
    "Adam, residual MLP": Planted(lambda seed: (task(seed, Residual), adam())),
    "Adam, transformer with LayerNorm": Planted(lambda seed: (task(seed, Transformer), adam())),
    "Adam, CNN with BatchNorm": Planted(lambda seed: (task(seed, convolutional), adam())),
}
DISEASES = {
    "lr too high": Planted(lambda seed: (task(seed, MLP), sgd(5.0)), ("lr above the stability limit",)),
    "lr far too low": Planted(lambda seed: (task(seed, MLP), sgd(1e-5)), ("lr far too low",)),
    "inputs with κ = 1e6": Planted(
        lambda seed: (task(seed, partial(mlp, [32, 128, 10]), stretched, both=True), sgd(0.1)), ("ill-conditioning",)
    ),
    "ten sigmoid layers, small weights": Planted(
        lambda seed: (task(seed, partial(deep, nn.Sigmoid, partial(nn.init.normal_, std=0.05))), adam()),
        ("vanishing gradients",),
    ),
    "ten ReLU layers, gain 3": Planted(
        lambda seed: (task(seed, partial(deep, nn.ReLU, partial(nn.init.normal_, std=3 * (2 / 64) ** 0.5))), adam()),
        ("exploding gradients",),
    ),
    "dead ReLUs": Planted(lambda seed: (task(seed, dying), adam()), ("dead units",)),
    "saturated tanh": Planted(lambda seed: (task(seed, partial(tanh, 50.0)), adam()), ("saturated units",)),
    "sorted data": Planted(lambda seed: (task(seed, MLP, sorted_by_class), sgd(0.1, shuffle=False)), ("sorted data",)),
    "duplicated data": Planted(lambda seed: (task(seed, MLP, tenfold), adam()), ("duplicated data",)),
    "labels of pure noise": Planted(
        lambda seed: (task(seed, MLP, any_label, both=True), sgd(0.05, batch_size=4)), ("gradient noise", "noise floor")
    ),
    "overfitting": Planted(
        lambda seed: (task(seed, partial(mlp, [64, 256, 256, 10]), few, both=True), adam(steps=600)), ("overfitting",)
    ),
    "30 % wrong labels": Planted(
        lambda seed: (task(seed, partial(mlp, [64, 256, 256, 10]), mislabelled, both=True), adam(3e-3, steps=2040)),
        ("label noise",),
    ),
    "symmetric initialisation": Planted(lambda seed: (task(seed, alike), sgd(0.1)), ("symmetric units",)),
}  # fmt: skip
