"""How good is the recipe that compare picks, and what did it cost? Beside Optuna's TPE, alone and with its pruner.

Each repeat gives every tuner the same task and seven mixed knobs: the algorithm (SGD with momentum, Nesterov,
AdamW, AdaGrad), lr from 1e-5 to 10, 1 - momentum or 1 - beta1, weight decay, the schedule (constant, cosine, linear),
warm-up and the gain of the initial weights. The peers train in the usual loop with PyTorch's fused optimizers, one
thread. What a tuner picks is trained on 8 fresh seeds; what counts is the mean test loss at the best validation
point. The cost is CPU seconds of the search, confirmation included.

    python benchmarks/quality.py [--repeats 8] [--task digits|autoencoder] [--trials 18]
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from thalweg import Problem, compare
from thalweg.comparison.spaces import Dimension
from thalweg.learning.batches import Batches
from thalweg.learning.risk import risk
from thalweg.training.run import Run

FRESH = range(900_000, 900_008)
STEPS, BATCH, MEASUREMENTS = 480, 64, 24
ALGORITHMS = ("momentum", "nesterov", "adamw", "adagrad")


def noisy_digits() -> Problem:
    """1000 digits to learn from, a fifth of them with a wrong label; 397 to select by, 400 to test."""
    images, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    wrong = generator.random(1000) < 0.2
    labels[:1000][wrong] = (labels[:1000][wrong] + generator.integers(1, 10, wrong.sum())) % 10
    parts = [(images[a:b], labels[a:b]) for a, b in ((0, 1000), (1000, 1397), (1397, 1797))]
    model = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    return Problem(model, *parts, loss=F.cross_entropy, name="noisy-digits", batch_size=BATCH, epochs=30)


def autoencoder() -> Problem:
    """Digits through eight numbers and back: 1000 images, 397, 400."""
    images, _ = load_digits(return_X_y=True)
    images = (images[np.random.default_rng(1).permutation(len(images))] / 16).astype(np.float32)
    parts = [(images[a:b], images[a:b]) for a, b in ((0, 1000), (1000, 1397), (1397, 1797))]
    model = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8), nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64)
    )
    return Problem(model, *parts, loss=F.mse_loss, name="autoencoder", batch_size=BATCH, epochs=30)


TASKS = {"digits": noisy_digits, "autoencoder": autoencoder}


def spaces() -> dict[str, list[Dimension]]:
    """The seven knobs, as thalweg searches them: the algorithm is the seventh."""
    shared = [
        Dimension("weight_decay", 1e-6, 1e-1),
        Dimension("schedule", scale="choice", choices=("constant", "cosine", "linear_decay")),
        Dimension("warmup", 0.0, 0.2, "linear"),
        Dimension("init_gain", 0.25, 4.0),
    ]
    lr = Dimension("lr", 1e-5, 10.0)
    return {
        name: [lr, *([Dimension(beta, 5e-3, 0.5, "one_minus")] if beta else []), *shared]
        for name, beta in (("momentum", "momentum"), ("nesterov", "momentum"), ("adamw", "beta1"), ("adagrad", None))
    }


def ours(problem: Problem, seed: int, trials: int) -> tuple[float, list[float]]:
    """CPU seconds of thalweg's search, and the test losses of its pick on fresh seeds."""
    with tempfile.TemporaryDirectory() as folder:
        study = compare(problem, trials=trials, spaces=spaces(), seed=seed, workers=1, out=folder)
        cost = sum(trial.cpu_seconds for trial in study.trials if trial.stage != "final")
        recipe = study.recipe
    losses = []
    for fresh in FRESH:
        run = Run(problem, recipe, fresh, STEPS // MEASUREMENTS)
        try:
            for _ in run.advance():
                pass
        except Exception as error:  # noqa: BLE001 - a pick that diverges is a result
            print("   a fresh seed of ours:", error)
            losses.append(math.inf)
            continue
        run.restore_best()
        losses.append(risk(run.network, problem.test, problem.metric)[0])
    return cost, losses


def theirs(problem: Problem, seed: int, trials: int, prune: bool) -> tuple[float, list[float]]:
    """The same of Optuna."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    started = time.process_time()
    study.optimize(lambda trial: usual_loop(problem, suggested(trial), seed, trial)[0], n_trials=trials, catch=())
    cost = time.process_time() - started
    params = study.best_params
    return cost, [usual_loop(problem, params, fresh)[1] for fresh in FRESH]


def suggested(trial: optuna.Trial) -> dict:
    """Optuna's seven knobs."""
    trial.suggest_categorical("algorithm", ALGORITHMS)
    trial.suggest_float("lr", 1e-5, 10.0, log=True)
    trial.suggest_float("one_minus_beta", 5e-3, 0.5, log=True)
    trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
    trial.suggest_categorical("schedule", ("constant", "cosine", "linear"))
    trial.suggest_float("warmup", 0.0, 0.2)
    trial.suggest_float("init_gain", 0.25, 4.0, log=True)
    return trial.params


def usual_loop(problem: Problem, params: dict, seed: int, trial: optuna.Trial | None = None) -> tuple[float, float]:
    """The loop that people write, at its fastest; gives the best validation loss, and the test loss there."""
    torch.manual_seed(seed)
    model = problem.model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(params["init_gain"])
    optimizer = torch_optimizer(model, params)
    rise = round(params["warmup"] * STEPS)
    batches = Batches(problem.train, BATCH, seed)
    valid, best, best_state = problem.valid, math.inf, None
    for t in range(STEPS):
        lr = params["lr"] * shape(params["schedule"], t, rise)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs, targets = batches[t]
        optimizer.zero_grad()
        loss = problem.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if (t + 1) % (STEPS // MEASUREMENTS) == 0:
            with torch.no_grad():
                value = float(problem.loss(model(valid.inputs), valid.targets))
            if not math.isfinite(value):
                break
            if value < best:
                best, best_state = value, copy.deepcopy(model.state_dict())
            if trial is not None:
                trial.report(value, t)
                if trial.should_prune():
                    raise optuna.TrialPruned
    if trial is not None or best_state is None:
        return (best if math.isfinite(best) else 1e9), math.inf
    model.load_state_dict(best_state)
    with torch.no_grad():
        return best, float(problem.loss(model(problem.test.inputs), problem.test.targets))


def torch_optimizer(model: nn.Module, params: dict) -> torch.optim.Optimizer:
    """PyTorch's own, fused."""
    beta, decay, lr = 1 - params["one_minus_beta"], params["weight_decay"], params["lr"]
    match params["algorithm"]:
        case "adamw":
            return torch.optim.AdamW(model.parameters(), lr, betas=(beta, 0.999), weight_decay=decay, fused=True)
        case "adagrad":
            return torch.optim.Adagrad(model.parameters(), lr, weight_decay=decay, fused=True)
        case name:
            nesterov = name == "nesterov"
            return torch.optim.SGD(model.parameters(), lr, beta, 0, decay, nesterov=nesterov, fused=True)


def shape(schedule: str, t: int, rise: int) -> float:
    """The schedule's factor at step t."""
    if t < rise:
        return (t + 1) / rise
    done = (t - rise) / max(1, STEPS - rise)
    return {"constant": 1.0, "cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}[schedule]


def main() -> None:
    """Runs the repeats and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trials", type=int, default=18)
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--only-ours", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = TASKS[options.task]()
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.first, options.first + options.repeats):
        tuners = {"thalweg": lambda: ours(problem, seed, options.trials)}  # noqa: B023
        if not options.only_ours:
            tuners["Optuna TPE, 64"] = lambda: theirs(problem, seed, 64, prune=False)  # noqa: B023
            tuners["Optuna TPE + median pruner, 64"] = lambda: theirs(problem, seed, 64, prune=True)  # noqa: B023
        for name, tune in tuners.items():
            cost, losses = tune()
            rows.setdefault(name, []).append((cost, float(np.mean(losses))))
            print(f"repeat {seed}  {name:32s} {cost:6.2f} CPU s  test loss {np.mean(losses):.4f}", flush=True)
    print(
        f"\n| {options.task}, {options.repeats} repeats | CPU s (mean) | cost against ours | test loss, mean | worst |"
    )
    print("|---|---|---|---|---|")
    mine = float(np.mean([cost for cost, _ in rows["thalweg"]]))
    for name, results in rows.items():
        costs, losses = zip(*results, strict=True)
        print(
            f"| {name} | {np.mean(costs):.2f} | {np.mean(costs) / mine:.2f}× | {np.mean(losses):.4f} "
            f"± {np.std(losses, ddof=1) / len(losses) ** 0.5:.4f} | {max(losses):.4f} |"
        )


if __name__ == "__main__":
    main()
