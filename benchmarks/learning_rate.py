"""Is the advised learning rate as good as the best of a sweep? On digits, MNIST-1D and the character model.

The advice comes from the start of one run, for a run of so many steps (`learning_rate.advise`), judged on validation
data. The sweep runs rates a factor of 2 apart, at a constant lr, from other seeds: new initial parameters, another
order of the data. Its best is chosen by the median test loss over some seeds, and runs on others beside the advised
rate: the best of many is better than it is, where it was chosen. Nothing here reads a clock.

    python benchmarks/learning_rate.py [--steps 512] [--seeds 5] > results/learning_rate.md
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator

import torch
from mnist1d.data import get_dataset_args, make_dataset
from torch import nn

from thalweg import Problem, adam, descend, sgd
from thalweg.challenges.learning_rate import advise
from thalweg.core.rule import Rule
from thalweg.learning.batches import Batches
from thalweg.learning.risk import risk
from thalweg.training.builtin import characters, digits

HELD = 16  # batches by which the advice is judged
RATES = [2.0**-k for k in range(-3, 17)]


def mnist1d() -> Problem:
    """The 4,000 and 1,000 examples of 40 numbers of Greydanus (2020), and his MLP without its residual."""
    data = make_dataset(get_dataset_args())
    x, y, x_test, y_test = (torch.as_tensor(data[name]) for name in ("x", "y", "x_test", "y_test"))
    x, x_test = x.float(), x_test.float()
    return Problem(
        lambda: nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)),
        (x[:3200], y[:3200]), (x[3200:], y[3200:]), (x_test, y_test), name="MNIST-1D", batch_size=100,
    )  # fmt: skip


def loss_after(problem: Problem, rule: Rule, lr: float, steps: int, seed: int) -> float:
    network = problem.network(seed)
    batches = Batches(problem.train, problem.batch_size, seed)
    for step in descend(network, rule, (batches[t] for t in range(steps)), lr=lr):
        if not math.isfinite(step.loss):
            return math.inf
    loss, _ = risk(network, problem.test, problem.metric)
    return loss if math.isfinite(loss) else math.inf


def median(problem: Problem, rule: Rule, lr: float, steps: int, seeds: range) -> float:
    return statistics.median(loss_after(problem, rule, lr, steps, seed) for seed in seeds)


def rows(steps: int, seeds: int) -> Iterator[str]:
    chosen, judged = range(1, 1 + seeds), range(1 + seeds, 1 + 3 * seeds)
    for problem in (digits(), mnist1d(), characters()):
        valid, train = (Batches(part, problem.batch_size, 0) for part in (problem.valid, problem.train))
        held = [valid[t] for t in range(min(len(valid), HELD))]
        for rule in (sgd, adam):
            advised = advise(problem.network(0), [train[t] for t in range(steps)], held, rule, steps=steps).lr
            sweep = [lr for lr in RATES if advised.value / 10 < lr < 10 * advised.value]
            best = min(sweep, key=lambda lr: median(problem, rule, lr, steps, chosen))
            mine, its = (median(problem, rule, lr, steps, judged) for lr in (advised.value, best))
            yield (
                f"| {problem.name} | {rule.name} | {advised.value:.3g} ({advised.low:.3g} to {advised.high:.3g}) "
                f"| {mine:.4g} | {best:.3g} | {its:.4g} | **{mine / its - 1:+.1%}** |"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; {arguments.steps} steps; the sweep's best is chosen by {arguments.seeds} seeds,")
    print(f"both are judged on {2 * arguments.seeds} others.\n")
    print("| problem | algorithm | advised lr | test loss | best of the sweep | test loss | against it |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in rows(arguments.steps, arguments.seeds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
