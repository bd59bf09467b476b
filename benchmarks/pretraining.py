"""Pretraining and curricula against none, on digits, in the same number of steps.

Every contender has the same settings of lr, tried on one seed; the best on the validation part is run on fresh seeds,
and its accuracy on the test part, where it validated best, is what counts. "against none" is the difference on the same
seeds. Pretraining takes its share of the steps, not more of them.

    python benchmarks/pretraining.py [pretraining] [curriculum] [labels] [--seeds 5] > results/pretraining.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

import thalweg as tw
from thalweg.core.errors import DivergenceError
from thalweg.core.measured import Measured, mean
from thalweg.learning.batches import Arrays, Batches
from thalweg.learning.curriculum import taught_by
from thalweg.learning.risk import risk
from thalweg.training.builtin import digits
from thalweg.training.pretraining import stages
from thalweg.training.run import Run

STEPS = 1020  # 30 epochs of 1078 digits in batches of 32
TUNING = 1000  # the seed that lr is chosen on
LRS = {"momentum": (0.03, 0.1, 0.3, 0.6), "adam": (0.001, 0.003, 0.01, 0.03)}
FEW = 60  # labelled digits


class Outcome(NamedTuple):
    """The accuracies of a run where it validated best."""

    valid: float
    test: float


CHANCE = Outcome(0.1, 0.1)
Train = Callable[[float, int], Outcome]  # of lr and a seed


def deep(activation: Callable[[], nn.Module], hidden: int = 5) -> Callable[[], nn.Module]:
    """A network of so many hidden layers of 64."""

    def model() -> nn.Module:
        parts: list[nn.Module] = []
        for _ in range(hidden):
            parts += [nn.Linear(64, 64), activation()]
        return nn.Sequential(*parts, nn.Linear(64, 10))

    return model


NETWORKS = {"sigmoid": deep(nn.Sigmoid), "ReLU": deep(nn.ReLU)}


def outcome(run: Run) -> Outcome:
    """Of the whole run; one that diverges is worth what chance is."""
    try:
        for _ in run.advance():
            pass
    except DivergenceError:
        return CHANCE
    run.restore_best()
    assert run.best is not None
    return Outcome(run.best.valid_metric, risk(run.network, run.problem.test, run.problem.metric)[1])


def recipe(problem: tw.Problem, algorithm: str, **fields: Any) -> Train:
    """A recipe's training."""

    def train(lr: float, seed: int) -> Outcome:
        run = Run(problem, tw.Recipe(algorithm, steps=STEPS, knobs={"lr": lr}, **fields), seed)
        return outcome(run)

    return train


def measured(contenders: Mapping[str, Train], lrs: tuple[float, ...], seeds: int) -> list[tuple[str, ...]]:
    """A row for each: the lr chosen, the test accuracy, and the difference to the first on the same seeds."""
    rows, first = [], None
    for name, train in contenders.items():
        lr = max(lrs, key=lambda lr: train(lr, TUNING).valid)
        tests = [100 * train(lr, seed).test for seed in range(seeds)]
        first = first or tests
        against = "" if first is tests else said(mean(torch.tensor(tests) - torch.tensor(first)))
        rows.append(
            (name, f"{lr:g}", f"{statistics.fmean(tests):.1f}", f"{min(tests):.1f} to {max(tests):.1f}", against)
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def said(figure: Measured) -> str:
    """A difference with its interval; bold where that is clear of 0."""
    text = f"{figure.value:+.1f} ({figure.low:+.1f} to {figure.high:+.1f})"
    return f"**{text}**" if figure.excludes(0.0) else text


def pretraining(seeds: int) -> None:
    """A network that was hard to train, and one that is not."""
    data = digits()
    heading("network, algorithm", f"Pretraining takes 0.4 of {STEPS} steps; five hidden layers of 64.")
    for name, model in NETWORKS.items():
        for algorithm, lrs in LRS.items():
            problem = replace(data, model=model, name=name)
            kinds = (None, "supervised", "unsupervised", "denoising")
            contenders = {str(k).lower(): recipe(problem, algorithm, pretrain=k, pretrain_share=0.4) for k in kinds}
            table(f"{name}, {algorithm}", measured(contenders, lrs, seeds))


def curriculum(seeds: int) -> None:
    """The loss under a network trained before, as a difficulty; its reverse; and none at all, paced the same."""
    data = replace(digits(), model=deep(nn.ReLU))
    teacher = Run(data, tw.Recipe("adam", steps=STEPS // 3, knobs={"lr": 0.003}), seed=TUNING + 1)
    for _ in teacher.advance():
        pass
    easy = taught_by(teacher.network)
    chance = torch.rand(len(data.train), generator=torch.Generator().manual_seed(0))
    sorts = {"easy first": easy, "hard first": lambda x, y: -easy(x, y), "any order": chance}
    heading("algorithm", f"{STEPS} steps; all examples are in after half of them. Five hidden layers of 64 ReLU.")
    for algorithm, lrs in LRS.items():
        contenders = {"none": recipe(data, algorithm)}
        for sort, difficulty in sorts.items():
            problem = replace(data, difficulty=difficulty)
            for pacing, mix in (("linear", 0.0), ("linear", 0.2), ("step", 0.2)):
                named = f"{sort}, {pacing}, mix {mix:g}"
                contenders[named] = recipe(problem, algorithm, curriculum=pacing, curriculum_mix=mix)
        table(algorithm, measured(contenders, lrs, seeds))


def labels(seeds: int) -> None:
    """Few labelled examples, and a thousand without: what is left of the old case for pretraining."""
    data = digits()
    what = (
        f"{FEW} labelled digits, others for each seed; {len(data.train)} inputs to pretrain on, for half of the steps"
    )
    heading("network, algorithm", f"{what}; two hidden layers of 64.")
    for name, activation in (("sigmoid", nn.Sigmoid), ("ReLU", nn.ReLU)):
        problem = replace(data, model=deep(activation, hidden=2))
        kinds = (None, "unsupervised", "denoising")
        contenders = {str(kind).lower(): on_all_inputs(problem, kind) for kind in kinds}
        table(f"{name}, adam", measured(contenders, LRS["adam"], seeds))


def on_all_inputs(problem: tw.Problem, kind: str | None) -> Train:
    """Stages on every input, then training on few that have a label, half of the steps each; or all without stages."""

    def train(lr: float, seed: int) -> Outcome:
        steps = STEPS if kind is None else STEPS // 2
        every = problem.train
        some = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:FEW]
        few = replace(problem, train=Arrays(every.inputs[some], every.targets[some]))
        run = Run(few, tw.Recipe("adam", steps=steps, knobs={"lr": lr}), seed)
        if kind is not None:
            batches = Batches(every, 32, seed)
            for stage in stages(run.network, batches[0], kind, seed=seed):
                share = (STEPS - steps) // stage.of
                seen = stage.batches(batches[t] for t in range(share))
                for _ in tw.descend(stage.network, tw.adam, seen, lr=0.003):
                    pass
            run.start_from(run.network.state())
        return outcome(run)

    return train


def heading(what: str, how: str) -> None:
    print(f"{how}\n\n| {what} | contender | lr | test accuracy, % | lowest to highest | against none |")
    print("|---|---|---:|---:|---:|---:|")


def table(what: str, rows: list[tuple[str, ...]]) -> None:
    for row in rows:
        print(f"| {what} | {' | '.join(row)} |", flush=True)


def main() -> None:
    """Prints the three tables, or those named."""
    parser = argparse.ArgumentParser()
    tables = {"pretraining": pretraining, "curriculum": curriculum, "labels": labels}
    parser.add_argument("what", nargs="*", help=", ".join(tables))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, one thread, torch {torch.__version__}; accuracy on the 359 test digits, mean of ",
        end="",
    )
    print(f"{options.seeds} seeds; differences with 95 % intervals.")
    for what in options.what or tables:
        print()
        tables[what](options.seeds)


if __name__ == "__main__":
    main()
