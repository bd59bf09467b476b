"""How many training steps a second do trials get? compare's pool beside Optuna studies with the usual loop.

Both sides train the same digits MLP (64-128-128-10, batch 64, Adam) for the same number of steps and measure the
validation loss as often, on two processes of one thread each. The peer is what people run: two Optuna processes on
one journal file, random search, PyTorch's default Adam. By turns; the medians of the rounds are compared.

    python benchmarks/trials.py [--rounds 5] [--trials 24]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch import nn
from torch.nn import functional as F

from thalweg import Problem, Recipe
from thalweg.comparison.study import Trial
from thalweg.comparison.trial import Task, worker
from thalweg.execution.pool import Pool
from thalweg.training.builtin import BUILTIN
from thalweg.training.run import Run

STEPS, BATCH, EVERY, PROCESSES = 480, 64, 20, 2


def problem() -> Problem:
    """The digits of scikit-learn, with the reference's model."""
    digits = BUILTIN["digits"][0]()
    model = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    return Problem(model, digits.train, digits.valid, loss=F.cross_entropy, batch_size=BATCH, epochs=1)


def ours(digits: Problem, trials: int) -> float:
    """Wall seconds of the pool, its start included."""
    lrs = torch.logspace(-4, -2, trials).tolist()
    with tempfile.TemporaryDirectory() as folder:
        tasks = [
            Task(
                Trial(f"{i:03d}", "screening", "adam", Recipe("adam", STEPS, BATCH, {"lr": lr}, "constant"), i),
                STEPS, EVERY, Path(folder) / f"{i}.safetensors",
            )
            for i, lr in enumerate(lrs)
        ]  # fmt: skip
        started = time.perf_counter()
        with Pool(worker(digits), PROCESSES) as pool:
            ended = [trial for _, trial in pool.run(tasks)]
        spent = time.perf_counter() - started
    assert all(trial.outcome == "finished" and len(trial.curve) == STEPS // EVERY for trial in ended)
    return spent


def theirs(digits: Problem, trials: int) -> float:
    """Wall seconds of two Optuna processes, their fork included."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal.log")
        optuna.create_study(study_name="digits", storage=JournalStorage(JournalFileBackend(journal)))
        fork = multiprocessing.get_context("fork")
        started = time.perf_counter()
        processes = [fork.Process(target=_optuna, args=(digits, journal, i, trials // 2)) for i in range(PROCESSES)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return time.perf_counter() - started


def _optuna(digits: Problem, journal: str, seed: int, trials: int) -> None:
    torch.set_num_threads(1)
    storage = JournalStorage(JournalFileBackend(journal))
    study = optuna.load_study(study_name="digits", storage=storage, sampler=optuna.samplers.RandomSampler(seed))
    study.optimize(lambda trial: usual_loop(digits, trial), n_trials=trials)


def usual_loop(digits: Problem, trial: optuna.Trial) -> float:
    """The loop that people write, its batches cut by a shuffled index."""
    torch.manual_seed(trial.number)
    model = digits.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True))
    inputs, targets = digits.train.inputs, digits.train.targets
    best, t = float("inf"), 0
    while t < STEPS:
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs), BATCH):
            chosen = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[chosen]), targets[chosen])
            loss.backward()
            optimizer.step()
            t += 1
            if t % EVERY == 0:
                model.eval()
                with torch.no_grad():
                    best = min(best, float(F.cross_entropy(model(digits.valid.inputs), digits.valid.targets)))
                model.train()
            if t == STEPS:
                break
    return best


def main() -> None:
    """Runs both by turns and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = problem()
    for _ in Run(digits, Recipe("adam", 3, BATCH), 0).advance():
        pass  # compiles, or loads, the kernel before the fork, as compare does
    rounds = [(ours(digits, options.trials), theirs(digits, options.trials)) for _ in range(options.rounds)]
    mine, peer = (options.trials * STEPS / statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, optuna {optuna.__version__}; ")
    print(f"{options.trials} trials of {STEPS} steps, median of {options.rounds} rounds\n")
    print("| two processes, one thread each | trials × steps a second | ratio |")
    print("|---|---:|---:|")
    print(f"| thalweg's pool | {mine:,.0f} | **{mine / peer:.2f}** |")
    print(f"| Optuna, journal storage, usual loop, default Adam | {peer:,.0f} | 1.00 |")


if __name__ == "__main__":
    main()
