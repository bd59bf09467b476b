"""What a monitor costs: training with it over training without, on an MLP, a CNN and a transformer.

One process, one thread, by turns: in each round both train for as many steps, in a new order. The table shows the
median over the rounds of the ratio of their CPU times, and how often each thing was looked at in the last one. Beside
it what Cockpit published of its "economy" configuration (Schneider et al. 2021, by the interval of its quantities).

    python benchmarks/monitor.py [--rounds 7] [--steps 1500] [--cost 0.05]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from planted import Transformer, convolutional
from torch import nn

from thalweg.diagnose.monitor import Monitor
from thalweg.learning.batches import Batches
from thalweg.training.builtin import digits
from thalweg.training.tables import mlp

MODELS = {"MLP, 64-128-128-10": lambda: mlp([64, 128, 128, 10]), "CNN with BatchNorm": convolutional,
          "transformer, 2 layers": Transformer}  # fmt: skip
COCKPIT = [("every step", "1.4 to 32", "1.7 to 63"), ("every 16", "1.04 to 1.40", "1.07 to 5.2"),
           ("every 64", "1.00 to 1.08", "1.02 to 2.1"), ("every 256", "0.98 to 1.04", "1.02 to 1.28")]  # fmt: skip


def trained(make, steps: int, cost: float) -> tuple[float, Monitor | None]:
    torch.manual_seed(0)
    model, loss_of = make(), nn.functional.cross_entropy
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = Batches(digits().train, 64, 0)
    drawn = [batches[t] for t in range(len(batches))]
    monitor = Monitor(model, optimizer, loss_of, cost=cost, clock=time.process_time) if cost else None
    began = time.process_time()
    for t in range(steps):
        batch = drawn[t % len(drawn)]
        optimizer.zero_grad()
        loss = loss_of(model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(loss, batch)
    return time.process_time() - began, monitor


def row(make, options: argparse.Namespace) -> str:
    for cost in (0.0, options.cost):
        trained(make, 200, cost)  # what is done once in a process
    ratios, last = [], None
    for _ in range(options.rounds):
        taken = {}
        for cost in random.sample([0.0, options.cost], 2):
            taken[cost], monitor = trained(make, options.steps, cost)
            last = monitor or last
        ratios.append(taken[options.cost] / taken[0.0])
    looks = ", ".join(f"{name} {share.looks}" for name, share in last.budget.shares.items())
    alarms = [finding.name for finding in last.findings() if finding.severity in ("warning", "critical")]
    step = 1e3 * taken[0.0] / options.steps
    middle = f"{statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f}"
    return f"{step:.2f} | {middle} | {looks} | {', '.join(alarms) or 'none'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--cost", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(
        f"Digits, batches of 64, Adam, {options.steps} steps, cost={options.cost:g}; {options.rounds} rounds by turns."
    )
    print(f"One thread, CPU time; torch {torch.__version__}, {platform.machine()}, a load of {load:.1f} beside.\n")
    print("| model | ms a step | with / without, median | least to most | looks in a run | alarms |")
    print("|---|---:|---:|---|---|---|", flush=True)
    for name, make in MODELS.items():
        print(f"| {name} | {row(make, options)} |", flush=True)
    print("\nCockpit's economy configuration, as published, over the time of a step:\n")
    print("| interval | on a GPU | on a CPU |\n|---|---|---|")
    for cells in COCKPIT:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
