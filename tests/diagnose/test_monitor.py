"""The monitor: a run with it is the run without it, and what it says is what was planted."""

import copy
import json
import math
import random
from collections import UserDict
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from thalweg import optim
from thalweg.challenges.inexact import MeanEstimation
from thalweg.core.errors import DiagnosisError, NetworkError
from thalweg.diagnose.glances import RUNGS
from thalweg.diagnose.monitor import FAILURES, Monitor
from thalweg.diagnose.ruled import ruled

F = nn.functional


class Clock:
    """Time that is told: a step of training takes 1; a look nothing, unless something says `tick`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def tick(self, seconds=1.0):
        self.now += seconds


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.layer(self.tokens(x.view(-1, 8, 8))).mean(1))


MODELS = {
    "MLP with dropout": lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)),
    "CNN with BatchNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    ),
    "transformer": Tokens,
}
OPTIMIZERS = {
    "torch SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "torch Adam": lambda params: torch.optim.Adam(params, lr=1e-3),
    "thalweg SGD": lambda params: optim.SGD(params, lr=0.05, momentum=0.9),
    "thalweg AdamW, flat": lambda params: optim.AdamW(params, lr=lambda t: 1e-3 / (1 + t), flatten=True),
    "thalweg SOAP": lambda params: optim.SOAP(params, lr=1e-3),
}


def classes(n=640, d=64, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    middles = torch.randn(10, d, generator=drawn)
    y = torch.randint(10, (n,), generator=drawn)
    return middles[y] + 1.5 * torch.randn(n, d, generator=drawn), y


def train(model, optimizer, data, steps, monitor=None, clock=None, size=64, step=None):
    """Somebody's own loop; `step` is what it calls after each step, if not the monitor."""
    x, y = data
    losses = []
    for t in range(steps):
        rows = slice(t * size % len(x), t * size % len(x) + size)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if clock is not None:
            clock.tick()
        if monitor is not None:
            monitor.step(loss, (x[rows], y[rows]))
        elif step is not None:
            step(loss, (x[rows], y[rows]))
    return losses


def seen_all(model, optimizer, data, steps=40, **options):
    """A run whose monitor may look at everything, and pays nothing for it."""
    clock = Clock()
    with Monitor(model, optimizer, loss=F.cross_entropy, cost=100.0, clock=clock, **options) as monitor:
        train(model, optimizer, data, steps, monitor, clock)
    return monitor


def begun(model_of, optimizer_of):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = model_of()
    return model, optimizer_of(model.parameters())


def state_of(model, optimizer):
    """All of a run that training leaves: tensors, and what is compared as it is."""
    numbers = [p.detach().clone() for p in model.parameters()] + [b.clone() for b in model.buffers()]
    numbers += [p.grad.clone() for p in model.parameters()]
    numbers += [x for s in optimizer.state_dict()["state"].values() for x in s.values() if isinstance(x, torch.Tensor)]
    parts = [*model.modules()]
    hooks = [len(getattr(part, kind)) for part in parts for kind in ("_forward_hooks", "_forward_pre_hooks")]
    hooks += [len(p._backward_hooks or {}) for p in model.parameters()]
    hooks += [len(optimizer._optimizer_step_post_hooks), len(optimizer._optimizer_step_pre_hooks)]
    flags = [part.training for part in parts] + [p.requires_grad for p in model.parameters()]
    generators = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    return numbers, (hooks, flags, generators)


def same(a, b):
    return len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0])) and a[1] == b[1]


# It changes nothing


@pytest.mark.parametrize("optimizer_of", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("model_of", MODELS.values(), ids=MODELS)
def test_a_run_with_the_monitor_ends_as_one_without(model_of, optimizer_of):
    model, optimizer = begun(model_of, optimizer_of)
    losses = train(model, optimizer, classes(), 26)
    without = state_of(model, optimizer)
    model, optimizer = begun(model_of, optimizer_of)
    clock = Clock()
    monitor = Monitor(model, optimizer, loss=F.cross_entropy, cost=100.0, clock=clock)
    assert train(model, optimizer, classes(), 26, monitor, clock) == losses
    looked = {name for name in RUNGS if name not in monitor.waiting}
    assert looked == set(RUNGS) and {"gradient norm", "update ratio"} <= monitor.history.keys()
    assert same(state_of(model, optimizer), without)


class Counting(nn.Module):
    """It counts its calls, and cannot be called with few examples."""

    def __init__(self, least=0):
        super().__init__()
        self.linear, self.calls, self.least = nn.Linear(64, 10), 0, least
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        self.calls += 1
        torch.rand(1)
        if len(x) < self.least:
            raise ValueError(f"only {len(x)} examples")
        return self.linear(self.drop(x))


def test_what_fails_in_a_look_is_noted_and_training_goes_on_as_without():
    make = OPTIMIZERS["torch Adam"]
    model, optimizer = begun(Counting, make)
    train(model, optimizer, classes(), 30)
    without, calls = state_of(model, optimizer), model.calls
    model, optimizer = begun(partial(Counting, least=64), make)
    monitor = seen_all(model, optimizer, classes(), 30)
    assert "only 8 examples" in monitor.refused["gradient noise"]
    assert same(state_of(model, optimizer), without) and model.calls == calls


def test_a_look_that_fails_is_tried_again_only_a_few_times():
    model, optimizer = begun(partial(Counting, least=64), OPTIMIZERS["torch SGD"])
    monitor = seen_all(model, optimizer, classes(), 60)
    assert monitor._log.failures["gradient noise"] == FAILURES and "gradient noise" not in monitor.budget.shares


def test_gradients_that_are_accumulated_and_clipped_stay_so():
    def run(monitored):
        model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
        clock, (x, y) = Clock(), classes()
        monitor = Monitor(model, optimizer, loss=F.cross_entropy, cost=100.0, clock=clock, batch_size=64)
        for t in range(24):
            optimizer.zero_grad()
            for k in range(2):
                part = slice(32 * (2 * t + k) % 640, 32 * (2 * t + k) % 640 + 32)
                loss = F.cross_entropy(model(x[part]), y[part])
                (loss / 2).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            clock.tick()
            if monitored:
                monitor.step(loss, (x[part], y[part]), norm=norm)
        return state_of(model, optimizer), monitor

    without, _ = run(False)
    having, monitor = run(True)
    assert same(without, having)
    norms = monitor.history["gradient norm"]
    assert len(norms) == 24 and min(norms.values) > 0.1  # those before clipping


# What it says


def alarms(monitor):
    return [finding.name for finding in monitor.findings() if finding.severity in ("warning", "critical")]


@pytest.mark.parametrize("model_of", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("optimizer", ["torch SGD", "torch Adam"])
def test_healthy_runs_are_no_cause_for_alarm(model_of, optimizer):
    model, optimizer = begun(model_of, OPTIMIZERS[optimizer])
    assert alarms(seen_all(model, optimizer, classes(), 60)) == []


def test_sorted_data_is_the_first_finding():
    x, y = classes(1280)
    order = y.argsort(stable=True)
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    assert alarms(seen_all(model, optimizer, (x[order], y[order]), 60))[0] == "sorted data"


def test_dead_units_are_found_in_their_layer():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch Adam"])
    nn.init.constant_(model[0].bias[:30], -100.0)
    found = seen_all(model, optimizer, classes(), 60).findings()
    assert [(f.name, f.where) for f in found if f.severity == "critical"] == [("dead units", "0")]


def test_units_that_are_the_same_are_found_even_if_they_are_looked_at_later():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    model[2].p = 0.0
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.01)
    assert alarms(seen_all(model, optimizer, classes(), 40))[0] == "symmetric units"


def test_a_learning_rate_above_the_limit_is_found_before_the_loss_is_no_number():
    found = on_a_quadratic(lr=3.9, momentum=0.9).findings()[0]
    assert found.name == "lr above the stability limit" and "1.03 times the largest that is stable" in found.what


def test_a_loss_that_is_no_number_is_a_finding_at_once_with_its_step():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    monitor = Monitor(model, optimizer, clock=Clock())
    for loss in (2.0, 1.9, 1.8):
        monitor.step(loss)
    assert monitor.findings() == []
    monitor.step(torch.tensor(math.nan))
    (found,) = monitor.findings()
    assert found.severity == "critical" and "nan at step 4" in found.what
    monitor.step(1.7)
    assert monitor.findings()[0].severity == "warning"  # it went on


def test_the_noise_scale_is_that_of_the_problem():
    """Examples N(0, Sigma), a gradient w - x with w held 1 away: tr Sigma / |G|² = 5.3125 all along."""
    problem = MeanEstimation(1.0)
    optimizer, clock = torch.optim.SGD(problem.parameters(), lr=0.0), Clock()
    monitor = Monitor(problem, optimizer, problem.loss, cost=100.0, clock=clock)
    for t in range(200):
        batch = problem.drawn(64, seed=t)
        problem.loss(problem(batch.inputs), batch.targets).backward()
        optimizer.step()
        clock.tick()
        monitor.step(1.0, batch)
        optimizer.zero_grad()
    *_, last = monitor.history["noise scale"]
    assert last.low < 5.3125 < last.high and last.high - last.low < 5


def on_a_quadratic(lr, momentum):
    """40 steps on w²/2, from w = 1."""
    model, clock = nn.Linear(1, 1, bias=False), Clock()
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    half = lambda z, y: (z - y).square().mean() / 2  # noqa: E731
    monitor = Monitor(model, optimizer, half, cost=100.0, clock=clock)
    x, y = torch.ones(16, 1), torch.zeros(16, 1)
    for _ in range(40):
        optimizer.zero_grad()
        loss = half(model(x), y)
        loss.backward()
        optimizer.step()
        clock.tick()
        monitor.step(loss, (x, y))
    return monitor


def test_the_limit_and_the_curvature_are_exact_on_a_quadratic():
    history = on_a_quadratic(lr=0.5, momentum=0.9).history
    assert history["sharpness"].values[-1] == pytest.approx(1.0)
    assert history["share of the stability limit"].values[-1] == pytest.approx(0.5 / 3.8, rel=1e-6)
    assert history["curvature along the gradient"].values[-1] == pytest.approx(1.0)


def test_a_validation_loss_that_rises_is_overfitting():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    monitor = Monitor(model, optimizer, clock=Clock())
    for loss in [*torch.linspace(2, 1, 30).tolist(), *torch.linspace(1, 1.6, 30).tolist()]:
        monitor.step(1.0)
        monitor.evaluated(loss)
    assert alarms(monitor) == ["overfitting"]


# What it costs


def test_looks_take_at_most_their_share_of_the_time():
    """A pass through the model takes 1; a step of training has one, a look as many as it makes."""
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    clock = Clock()
    model.register_forward_pre_hook(lambda *_: clock.tick())
    monitor = Monitor(model, optimizer, loss=F.cross_entropy, cost=0.1, clock=clock)
    train(model, optimizer, classes(), 1500, monitor)
    dearest = max(share.last for share in monitor.budget.shares.values() if share.last)
    assert monitor.budget.elapsed >= 1499 and clock.now == pytest.approx(
        1 + monitor.budget.elapsed + monitor.budget.spent
    )
    assert 0.04 * 1500 < monitor.budget.spent <= 0.1 * 1500 + dearest
    looks = {name: share.looks for name, share in monitor.budget.shares.items()}
    assert looks["units"] > looks["order"] >= 1


def test_a_run_that_is_too_short_says_what_it_had_no_time_for():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    clock = Clock()
    monitor = Monitor(model, optimizer, loss=F.cross_entropy, clock=clock)
    train(model, optimizer, classes(), 20, monitor, clock)
    assert set(monitor.waiting) == set(RUNGS) and "training more" in monitor.waiting["stability"]
    monitor.look(classes(64))
    assert set(monitor.waiting) <= {"order", "inputs"}  # those need several batches


# Batches as people have them


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Answer(UserDict):
    """As a tokenizer's: a dictionary with more to it."""


def by_name(module, batch):
    return module(batch["x"]), batch["y"]


def to_loss(module, batch):
    return F.cross_entropy(module(batch["x"]), batch["y"])


SHAPES = {
    "pair": (lambda x, y: (x, y), None),
    "list": (lambda x, y: [x, y], None),
    "named": (Pair, None),
    "dictionary": (lambda x, y: {"x": x, "y": y}, by_name),
    "loss": (lambda x, y: {"x": x, "y": y}, to_loss),
    "more than a dictionary": (lambda x, y: Answer(x=x, y=y, words=["a"]), by_name),
    "three": (lambda x, y: (x, y, torch.ones(3)), lambda module, batch: (module(batch[0]), batch[1])),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_figures_are_the_same_whatever_a_batch_looks_like(shape):
    make, forward = SHAPES[shape]
    found = []
    for form, function in ((lambda x, y: (x, y), None), (make, forward)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        clock = Clock()
        monitor = Monitor(model, optimizer, F.cross_entropy, forward=function, cost=100.0, clock=clock)
        step = lambda loss, batch: monitor.step(loss, form(*batch))  # noqa: B023, E731
        train(model, optimizer, classes(), 30, clock=clock, step=step)
        found.append({name: series.values for name, series in monitor.history.items()})
        assert set(monitor.refused) <= {"inputs", "symmetry"}, monitor.refused
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        if name not in ("gradient growth a layer", "design effect"):
            assert found[1][name][0] == pytest.approx(found[0][name][0], rel=1e-5), name


class WithLoss(nn.Module):
    """As libraries for language models have it."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

    def forward(self, x, labels=None):
        logits = self.inside(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_a_dictionary_is_given_by_name_to_a_model_that_answers_with_its_loss():
    torch.manual_seed(0)
    model, clock = WithLoss(), Clock()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, cost=100.0, clock=clock)
    x, y = classes()
    for t in range(30):
        optimizer.zero_grad()
        batch = {"x": x[64 * (t % 10) : 64 * (t % 10) + 64], "labels": y[64 * (t % 10) : 64 * (t % 10) + 64]}
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        clock.tick()
        monitor.step(loss, batch)
    assert {"noise scale", "sharpness", "design effect", "gradient growth a layer"} <= monitor.history.keys()
    assert "inside.0" in {layer for layer in dict(model.named_modules())} and set(monitor.refused) == {
        "inputs",
        "symmetry",
    }


def test_a_batch_that_says_nothing_is_refused_with_what_to_give():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    clock = Clock()
    monitor = Monitor(model, optimizer, cost=100.0, clock=clock)
    train(model, optimizer, classes(), 10, clock=clock, step=lambda loss, batch: monitor.step(loss, batch))
    assert any("loss=" in reason for reason in monitor.refused.values())
    train(model, optimizer, classes(), 10, clock=clock, step=lambda loss, batch: monitor.step(loss, object()))
    assert "without tensors" in " ".join(monitor.refused.values())


def test_without_batches_there_are_losses_gradients_and_updates():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    clock = Clock()
    monitor = Monitor(model, optimizer, cost=100.0, clock=clock)
    train(model, optimizer, classes(), 30, clock=clock, step=lambda loss, _: monitor.step(loss))
    assert set(monitor.history) == {"loss", "gradient norm", "update ratio"} and not monitor.refused
    assert alarms(monitor) == []


def test_gradients_that_are_gone_are_said_to_be():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    clock = Clock()
    monitor = Monitor(model, optimizer, cost=100.0, clock=clock)

    def step(loss, _):
        optimizer.zero_grad()
        monitor.step(loss)

    train(model, optimizer, classes(), 10, clock=clock, step=step)
    assert "before zero_grad()" in monitor.refused["gradient norm"]


# Models and optimizers as people have them


def test_a_compiled_model_is_looked_into_and_not_compiled_anew():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    compiled = torch.compile(model, backend="eager")
    clock, made = Clock(), torch._dynamo.utils.counters["stats"]
    monitor = Monitor(compiled, optimizer, F.cross_entropy, cost=100.0, clock=clock)
    train(compiled, optimizer, classes(), 3)
    graphs = made["unique_graphs"]
    train(compiled, optimizer, classes(), 30, monitor, clock)
    assert set(monitor.waiting) == set() and made["unique_graphs"] == graphs


def test_a_model_that_runs_in_parallel_is_looked_into(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
        train(model, optimizer, classes(), 26)
        without = state_of(model, optimizer)
        model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
        wrapped = nn.parallel.DistributedDataParallel(model)
        monitor = seen_all(wrapped, optimizer, classes(), 26)
        assert monitor.waiting == {} and same(state_of(model, optimizer), without)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_scaled_gradients_are_unscaled_and_skipped_steps_no_finding(scale):
    model, optimizer = begun(lambda: nn.Linear(64, 10), lambda params: torch.optim.SGD(params, lr=1e-4))
    scaler, clock = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6), Clock()
    monitor = Monitor(model, optimizer, cost=100.0, scaler=scaler, clock=clock)
    x, y = classes()
    for _ in range(40):
        optimizer.zero_grad()
        loss = 1000 * F.cross_entropy(model(x[:64]), y[:64])  # gradients of about 1000, which overflow when scaled
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        clock.tick()
        monitor.step(loss)
    assert max(monitor.history["gradient norm"].values) < 1e4
    assert alarms(monitor) == [] and (monitor.skipped > 0) == (scale > 2.0**100)


def test_the_rule_behind_torchs_optimizer_is_that_behind_ours():
    found = []
    for make in (torch.optim.AdamW, optim.AdamW):
        model, optimizer = begun(
            MODELS["CNN with BatchNorm"], lambda params, make=make: make(params, lr=1e-3, betas=(0.8, 0.9))
        )
        train(model, optimizer, classes(), 5)
        found.append(ruled(optimizer, [*model.parameters()]))
    torchs, ours = found
    assert torchs.rule is ours.rule and torchs.knobs == ours.knobs and torchs.knobs["beta1"] == 0.8
    assert torchs.memory.keys() == ours.memory.keys() and torchs.memory["t"] == 5
    assert torch.allclose(torchs.memory["v"], ours.memory["v"])


def test_what_rule_it_is_cannot_always_be_told():
    class Own(torch.optim.SGD):
        pass

    model = nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 10))
    with pytest.raises(DiagnosisError, match="Own is not known"):
        ruled(Own(model.parameters(), lr=0.1), [*model.parameters()])
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.2}]
    with pytest.raises(DiagnosisError, match="differ in lr"):
        ruled(torch.optim.SGD(groups, lr=0.1), [*model.parameters()])


def test_several_groups_are_watched_but_for_their_limit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.1}]
    monitor = seen_all(model, torch.optim.SGD(groups, lr=0.05), classes(), 40)
    assert set(monitor.refused) == {"stability", "inputs"} or set(monitor.refused) == {"stability"}
    assert "noise scale" in monitor.history


@pytest.mark.parametrize("cost", [0, -1, math.nan, math.inf])
def test_a_cost_is_a_share(cost):
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    with pytest.raises(DiagnosisError, match="share of the time"):
        Monitor(model, optimizer, cost=cost)


def test_what_cannot_be_looked_into_is_refused_at_once():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(DiagnosisError, match="no parameter of the model"):
        Monitor(model, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(NetworkError, match="was expected"):
        Monitor("model", torch.optim.SGD(other.parameters(), lr=0.1))
    nn.init.constant_(model.weight, math.nan)
    with pytest.raises(DiagnosisError, match="NaN"):
        Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_loss_of_several_numbers_is_refused_and_training_goes_on():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    monitor = Monitor(model, optimizer, clock=Clock())
    monitor.step(torch.ones(3))
    assert "give one number" in monitor.refused["loss"]


# To go on


def test_a_monitor_goes_on_from_its_state_as_if_nothing_had_been():
    def run(interrupted):
        model, optimizer = begun(MODELS["CNN with BatchNorm"], OPTIMIZERS["torch Adam"])
        clock = Clock()
        make = partial(Monitor, model, optimizer, F.cross_entropy, cost=0.5, clock=clock)
        monitor = make()
        model.register_forward_pre_hook(lambda *_: clock.tick())
        train(model, optimizer, classes(), 100, monitor)
        if interrupted:
            state = json.loads(json.dumps(monitor.state_dict()))
            monitor = make()
            monitor.load_state_dict(state)
        train(model, optimizer, classes(), 20, monitor)
        return monitor

    whole, parts = run(False), run(True)
    assert parts.t == whole.t == 120 and parts.history["loss"].values == whole.history["loss"].values
    assert parts.history.keys() == whole.history.keys()
    assert [f.name for f in parts.findings()] == [f.name for f in whole.findings()]


def test_what_it_holds_of_the_loop_is_let_go():
    model, optimizer = begun(MODELS["MLP with dropout"], OPTIMIZERS["torch SGD"])
    monitor = seen_all(model, optimizer, classes(), 40)
    assert monitor._kept.batches == [] and monitor._network is None
    assert monitor.findings() is not None and len(monitor.history["loss"]) == 40
    copy.deepcopy(monitor.history)
