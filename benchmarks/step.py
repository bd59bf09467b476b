"""What one whole training step costs: ours, by `descend`, against torch.optim's forms of the same algorithm.

One process, one thread, by turns: each round runs a few steps of every contender in a new order, and the table shows
the median over the rounds of the CPU time of a step. A step is a batch, the forward pass, the gradient, the update
and the loss as a number. Run `python benchmarks/step.py > benchmarks/results/step.md`; it takes about two minutes.
"""

from __future__ import annotations

import itertools
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numba
import torch
from torch import nn

from thalweg import Batch, Network, descend
from thalweg.adaptive.adam import adam
from thalweg.adaptive.adamw import adamw
from thalweg.adaptive.rmsprop import rmsprop
from thalweg.basic.momentum import momentum
from thalweg.core.rule import Rule
from thalweg.execution.kernels import executable

Contender = Callable[[], Any]
loss_of = nn.functional.cross_entropy

MODELS = {  # widths, batch size, rounds, steps a round
    "digits MLP 64-128-128-10, batch 64": ((64, 128, 128, 10), 64, 150, 20),
    "MLP 784-2048-2048-2048-10, 10.0 M parameters, batch 16": ((784, 2048, 2048, 2048, 10), 16, 11, 2),
}
ALGORITHMS: dict[str, tuple[Rule, Callable[..., torch.optim.Optimizer], dict[str, float]]] = {
    "adam": (adam, torch.optim.Adam, {"lr": 1e-3}),
    "adamw": (adamw, torch.optim.AdamW, {"lr": 1e-3}),
    "momentum": (momentum, torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
    "rmsprop": (rmsprop, torch.optim.RMSprop, {"lr": 1e-3}),
}
FORMS = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def batches(widths: tuple[int, ...], size: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    few = [
        Batch(
            torch.randn(size, widths[0], generator=generator),
            torch.randint(widths[-1], (size,), generator=generator),
        )
        for _ in range(8)
    ]
    return itertools.cycle(few)


def theirs(widths: tuple[int, ...], size: int, make: Callable[..., torch.optim.Optimizer], knobs: Any) -> Contender:
    module, stream = mlp(widths), batches(widths, size)
    optimizer = make(module.parameters(), **knobs)

    def step() -> float:
        inputs, targets = next(stream)
        optimizer.zero_grad()
        loss = loss_of(module(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def ours(widths: tuple[int, ...], size: int, rule: Rule, knobs: dict[str, float], compile_it: bool) -> Contender:
    network = Network(mlp(widths), loss_of)
    form = executable(rule, network.theta).rule if compile_it else rule
    return descend(network, form, batches(widths, size), **knobs).__next__


def contenders(widths: tuple[int, ...], size: int, algorithm: str) -> dict[str, Contender]:
    rule, optimizer, knobs = ALGORITHMS[algorithm]
    found = {"ours, eager": ours(widths, size, rule, knobs, False), "ours": ours(widths, size, rule, knobs, True)}
    for form, options in FORMS.items():
        try:
            found[form] = theirs(widths, size, optimizer, {**knobs, **options})
        except TypeError:  # torch has no such form of this algorithm
            continue
    return found


def by_turns(steps: dict[str, Contender], rounds: int, repeats: int) -> dict[str, float]:
    """The median CPU time of a step in microseconds, of each contender."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(rounds + 2):
        random.Random(turn).shuffle(order)
        for name in order:
            started = time.process_time()
            for _ in range(repeats):
                steps[name]()
            if turn >= 2:  # the first rounds warm up
                times[name].append((time.process_time() - started) / repeats * 1e6)
    return {name: statistics.median(taken) for name, taken in times.items()}


def machine() -> str:
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next(
                (line.split(": ")[1].strip() for line in lines if line.startswith("model name")), processor
            )
    return (
        f"{processor}, one thread; Python {platform.python_version()}, torch {torch.__version__}, "
        f"numba {numba.__version__}"
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"CPU time of one whole training step, median in µs ({machine()}).\n")
    print("| model | algorithm | default | foreach | fused | ours, eager | ours | ours / default | ours / fused |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for model, (widths, size, rounds, repeats) in MODELS.items():
        for algorithm in ALGORITHMS:
            taken = by_turns(contenders(widths, size, algorithm), rounds, repeats)
            cells = [f"{taken[c]:.0f}" if c in taken else "" for c in (*FORMS, "ours, eager", "ours")]
            cells += [f"{taken['ours'] / taken[c]:.2f}" if c in taken else "" for c in ("default", "fused")]
            print(f"| {model} | {algorithm} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
