"""A deep autoencoder of digits in the same CPU seconds: second-order algorithms, first-order ones, and those of others.

The 1797 digits of scikit-learn, scaled to [0, 1], through 64-120-60-30-8 and back, sigmoid units, Martens' sparse
initialisation (15 incoming weights a unit, standard normal; biases zero). The loss is the binary cross entropy of the
logits, summed over the 64 pixels, mean over the examples; the figure is the squared error of the reconstructions of
all of them, summed over the pixels, mean over the examples. Nothing is held out: it is optimisation that is compared.

Every contender has as many settings, which are tried on one seed for a quarter of the time; the best is run on fresh
seeds. Learning rates are constant. The clock is the process' CPU time within the steps, one thread; batches are cut
within it, errors measured outside. What compiles does so before.

    python benchmarks/autoencoder.py [--seconds 16] [--seeds 3] [--only adam,hessian_free] > results/autoencoder.md
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import math
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import thalweg
from thalweg import Batch, Network, descend
from thalweg.core.lifted import lifted
from thalweg.execution.kernels import executable
from thalweg.learning.batches import Arrays, Batches

DIGITS = torch.from_numpy(load_digits().data / 16).float()  # (1797, 64)
WIDTHS = (64, 120, 60, 30, 8, 30, 60, 120, 64)
INCOMING, ALL = 15, len(DIGITS)
LOSS = functools.partial(F.binary_cross_entropy_with_logits, weight=torch.tensor(64.0))  # the sum over the pixels
MEASUREMENTS = 64  # in a run
WARM = 12  # steps before the first that is measured

Setting = dict[str, Any]
Train = Callable[[nn.Module, Batches, Setting], Iterator[Any]]  # a step is taken at each next()


class Contender(NamedTuple):
    """One row of the table."""

    name: str
    train: Train
    settings: list[Setting]


class Point(NamedTuple):
    """Where a run is after some CPU seconds of training."""

    seconds: float
    steps: int
    error: float


def autoencoder(seed: int) -> nn.Module:
    """With Martens' sparse initialisation."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layer = nn.Linear(inputs, outputs)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for row in layer.weight:
                chosen = torch.randperm(inputs, generator=generator)[:INCOMING]
                row[chosen] = torch.randn(len(chosen), generator=generator)
        layers += [layer, nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def error(module: nn.Module) -> float:
    """The squared error of all reconstructions: summed over the pixels, mean over the examples."""
    return float((module(DIGITS).sigmoid() - DIGITS).square().sum() / ALL)


# Contenders


def ours(name: str) -> Train:
    """A rule, first-order ones of the package by name, second-order ones from their own module."""
    where = thalweg if hasattr(thalweg, name) else importlib.import_module(f"thalweg.second_order.{name}")
    rule = getattr(where, name)

    def train(module: nn.Module, batches: Batches, setting: Setting) -> Iterator[Any]:
        network = Network(module, LOSS)
        fast = executable(lifted(rule, network.shapes), network.theta).rule
        return iter(descend(network, fast, (batches[t] for t in itertools.count()), **setting))

    return train


def theirs(make: Callable[..., torch.optim.Optimizer], closure: bool = False) -> Train:
    """The loop that people write, around a torch optimizer."""

    def train(module: nn.Module, batches: Batches, setting: Setting) -> Iterator[Any]:
        optimizer = make(module, **setting)

        def loss_on(batch: Batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = LOSS(module(batch.inputs), batch.targets)
            loss.backward()
            return loss

        for t in itertools.count():
            if closure:
                yield optimizer.step(functools.partial(loss_on, batches[t]))
            else:
                loss_on(batches[t])
                yield optimizer.step()

    return train


def heavyball_soap() -> Train:
    heavyball = importlib.import_module("heavyball")
    heavyball.utils.compile_mode = "default"  # its "max-autotune" compiles for a quarter of an hour
    shared = {"weight_decay": 0.0, "precondition_frequency": 10}  # as ours
    return theirs(lambda module, **setting: heavyball.SOAP(module.parameters(), **shared, **setting))


def pytorch_optimizer_soap() -> Train:
    soap = importlib.import_module("pytorch_optimizer").SOAP
    return theirs(lambda module, **setting: soap(module.parameters(), weight_decay=0.0, **setting))


def singd() -> Train:
    return theirs(importlib.import_module("singd.optim.optimizer").SINGD)


def torchs(name: str, closure: bool = False, **fixed: Any) -> Callable[[], Train]:
    cls = getattr(torch.optim, name)
    return lambda: theirs(lambda module, **setting: cls(module.parameters(), **fixed, **setting), closure)


def settings(knobs: str, *rows: tuple[float, ...], **shared: float) -> list[Setting]:
    """One for each row of values of the knobs named, and what they share."""
    return [dict(zip(knobs.split(), row, strict=True)) | shared for row in rows]


ADAM = settings("lr", (2e-3,), (5e-3,), (1e-2,), (2e-2,), batch=64)
NESTEROV = settings("lr momentum", (1e-2, 0.95), (3e-2, 0.9), (3e-2, 0.95), (0.1, 0.9), batch=64)
SOAP = settings("lr batch", (1e-2, 64), (1e-2, 128), (2e-2, 128), (2e-2, 256))
KRONECKER = settings("damping batch", (0.03, 256), (0.1, 256), (0.03, 512), (0.1, 512), estimate_every=5.0)
HISTORY = settings("history_size", (10,), (30,), (100,), (300,))
OURS = {
    "adam": ADAM,
    "nesterov": NESTEROV,
    "soap": SOAP,
    "shampoo": settings("lr batch", (1e-2, 64), (2e-2, 64), (2e-2, 128), (4e-2, 128)),
    "kfac": KRONECKER,
    "ekfac": KRONECKER,
    "natural_gradient": settings("damping batch", (0.1, 128), (0.01, 256), (0.1, 256), (0.1, 512)),
    "hessian_free": settings("damping", (0.03,), (0.1,), (0.3,), (1.0,), share=0.25),
    "lbfgs": HISTORY,
    "stochastic_lbfgs": settings("lr batch", (1.0, 256), (0.3, 256), (1.0, 512), (0.3, 512)),
}
PEERS: dict[str, tuple[Callable[[], Train], list[Setting]]] = {
    "torch Adam": (torchs("Adam", fused=True), ADAM),
    "torch Nesterov": (torchs("SGD", fused=True, nesterov=True), NESTEROV),
    "torch L-BFGS": (torchs("LBFGS", closure=True, line_search_fn="strong_wolfe"), HISTORY),
    "heavyball SOAP": (heavyball_soap, SOAP),
    "pytorch_optimizer SOAP": (pytorch_optimizer_soap, SOAP),
    "SINGD": (singd, settings("lr damping", (0.02, 1e-2), (0.03, 1e-3), (0.03, 1e-2), (0.05, 1e-2), batch=256)),
}
LEFT_OUT = ["bfgs (its matrix would be 4.7 GB)", "kfac-pytorch and PyTorchHessianFree (they are not on PyPI)"]


# Measuring


def begun(contender: Contender, setting: Setting, seed: int) -> tuple[nn.Module, Iterator[Any]]:
    """A module, and the steps that train it."""
    knobs = dict(setting)
    batches = Batches(Arrays(DIGITS, DIGITS), knobs.pop("batch", ALL), seed, drop_last=True)
    module = autoencoder(seed)
    return module, contender.train(module, batches, knobs)


def run(contender: Contender, setting: Setting, seed: int, seconds: float) -> list[Point]:
    """Points of a run, the last of them within the time; it ends too where the error is no longer a number."""
    module, steps = begun(contender, setting, seed)
    spent, points = 0.0, [Point(0.0, 0, error(module))]
    for t in itertools.count(1):
        started = time.process_time()
        next(steps)
        spent += time.process_time() - started
        if spent > seconds or not math.isfinite(points[-1].error):
            break
        if spent >= points[-1].seconds + seconds / MEASUREMENTS:
            points.append(Point(spent, t, error(module)))
    return points


def tuned(contender: Contender, seconds: float) -> Setting:
    """The best of its settings on a seed of its own, once what it compiles is compiled."""
    _, steps = begun(contender, contender.settings[0], 0)
    for _ in range(WARM):
        next(steps)
    errors = []
    for setting in contender.settings:
        last = run(contender, setting, 1000, seconds)[-1]
        errors.append(last.error if math.isfinite(last.error) else math.inf)
        print(f"{contender.name} {setting}: {errors[-1]:.3f} in {last.steps} steps", file=sys.stderr, flush=True)
    return contender.settings[errors.index(min(errors))]


def contenders(only: list[str]) -> Iterator[Contender]:
    """Those that are here; a word on the others is left in LEFT_OUT."""
    makers = {name: (functools.partial(ours, name), settings) for name, settings in OURS.items()} | PEERS
    for name, (make, settings) in makers.items():
        if not only or name in only:
            try:
                yield Contender(name, make(), settings)
            except (ImportError, AttributeError) as missing:
                LEFT_OUT.append(f"{name} ({missing})")


def row(contender: Contender, setting: Setting, runs: list[list[Point]], goal: float) -> str:
    """Errors at the end, and when they first were no higher than the goal; medians over the seeds."""
    errors = sorted(points[-1].error for points in runs)
    firsts = [next((p for p in points if p.error <= goal), None) for points in runs]
    there = [point for point in firsts if point is not None]
    when = " |"
    if len(there) == len(runs):
        seconds, steps = (statistics.median(p[k] for p in there) for k in (0, 1))
        when = f"{seconds:.1f} | {steps:,.0f}"
    chosen = ", ".join(f"{knob} {value:g}" for knob, value in setting.items())
    steps = statistics.median(points[-1].steps for points in runs)
    spread = f"**{statistics.median(errors):.3f}** | {errors[0]:.3f} to {errors[-1]:.3f}"
    return f"| {contender.name} | {chosen} | {spread} | {steps:,.0f} | {when} |"


def main() -> None:
    """Tunes, runs and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="names of contenders, with commas between them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    here = list(contenders([name for name in options.only.split(",") if name]))
    chosen = [(contender, tuned(contender, options.seconds / 4)) for contender in here]
    runs: dict[str, list[list[Point]]] = {contender.name: [] for contender, _ in chosen}
    for seed in range(options.seeds):
        for contender, setting in chosen:
            runs[contender.name].append(run(contender, setting, seed, options.seconds))
            print(f"{contender.name} seed {seed}: {runs[contender.name][-1][-1]}", file=sys.stderr, flush=True)
    adams = runs.get("adam") or [[Point(0.0, 0, math.nan)]]
    goal = statistics.median(points[-1].error for points in adams)
    print(f"{platform.machine()}, one thread, torch {torch.__version__}; {options.seconds:g} CPU seconds of training.")
    print(f"The best of four settings tried for a quarter of that, then {options.seeds} fresh seeds; medians. Steps of")
    print("torch L-BFGS are calls, of 20 iterations each. Without a batch in its setting one takes all examples.\n")
    print("| algorithm | setting | squared error | lowest to highest | steps | s to adam's error | steps to it |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for contender, setting in sorted(chosen, key=lambda c: statistics.median(p[-1].error for p in runs[c[0].name])):
        print(row(contender, setting, runs[contender.name], goal))
    print(f"\nLeft out: {'; '.join(LEFT_OUT)}.")


if __name__ == "__main__":
    main()
