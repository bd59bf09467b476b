"""Schedules as knobs: functions of the step that resume where the state_dict says, alone and composed."""

import io

import pytest
import torch
from torch.optim import lr_scheduler

from thalweg import adam, optim
from thalweg.strategies.schedules import cosine, exponential, linear_decay, then, warm_restarts, warmed_up

STEPS = 12
SCHEDULES = {
    "cosine": cosine(0.1, STEPS),
    "warmed_up": warmed_up(cosine(0.1, 8), 4),
    "then": then(warmed_up(exponential(0.1, 0.7), 3), 6, linear_decay(0.05, 4)),
    "warm_restarts": warm_restarts(0.1, 2, mult=2),
}


def saved_and_loaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_lr_is_that_of_the_schedule_at_each_step(parameters, walk):
    optimizer, seen = optim.Adam(parameters(), lr=SCHEDULES["then"]), []
    for t in range(STEPS):
        walk(optimizer, t + 1, first=t)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [SCHEDULES["then"](t) for t in range(STEPS)]


def test_a_schedule_is_lr_set_by_hand(parameters, walk):
    mine, other = parameters(), parameters()
    walk(optim.Adam(mine, lr=SCHEDULES["warmed_up"]), STEPS)
    plain = optim.Adam(other)
    for t in range(STEPS):
        plain.param_groups[0]["lr"] = SCHEDULES["warmed_up"](t)
        walk(plain, t + 1, first=t)
    assert all(map(torch.equal, mine, other))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("k", range(STEPS + 1))
def test_it_resumes_exactly_at_every_step(name, k, parameters, walk):
    knobs = {"lr": SCHEDULES[name], "betas": lambda t: (0.9 - 0.01 * t, 0.99), "weight_decay": lambda t: 0.1 / (1 + t)}
    whole, params = parameters(), parameters()
    walk(optim.AdamW(whole, **knobs), STEPS)
    before = optim.AdamW(params, **knobs)
    walk(before, k)
    after = optim.AdamW(params, **knobs)
    after.load_state_dict(saved_and_loaded(before.state_dict()))
    walk(after, STEPS, first=k)
    assert all(map(torch.equal, params, whole))


@pytest.mark.xfail(reason="pytorch/pytorch#162591", strict=True)
def test_torchs_sequential_scheduler_resumes_from_its_last_epoch(parameters, walk):
    def constructed(optimizer, last_epoch=-1):
        parts = [
            lr_scheduler.ConstantLR(optimizer, 0.1, 2, last_epoch=last_epoch),
            lr_scheduler.ExponentialLR(optimizer, 0.9, last_epoch=last_epoch),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [2], last_epoch=last_epoch)

    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    scheduler = constructed(optimizer)
    for t in range(4):
        walk(optimizer, t + 1, first=t)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.81)
    resumed = torch.optim.SGD([{"params": parameters(), "initial_lr": 1.0}], lr=1.0)
    constructed(resumed, last_epoch=4)
    assert resumed.param_groups[0]["lr"] == pytest.approx(0.81 * 0.9)


def test_the_same_schedule_as_a_knob_does_resume(parameters, walk):
    lr = then(lambda t: 0.1, 2, exponential(1.0, 0.9))
    optimizer = optim.SGD(parameters(), lr=lr)
    walk(optimizer, 4)
    resumed = optim.SGD(parameters(), lr=lr)
    resumed.load_state_dict(optimizer.state_dict())
    walk(resumed, 5, first=4)
    assert resumed.param_groups[0]["lr"] == pytest.approx(0.81)


def test_groups_have_schedules_of_their_own_and_share_the_others(parameters, walk):
    first, second, third = parameters()
    groups = [{"params": [first], "lr": lambda t: 0.1 * t}, {"params": [second]}, {"params": [third], "lr": 0.3}]
    optimizer = optim.Adam(groups, lr=lambda t: 0.01 * t)
    walk(optimizer, 3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02, 0.3])
    optimizer.add_param_group({"params": torch.nn.Parameter(torch.ones(2)), "lr": lambda t: 5.0 + t})
    walk(optimizer, 5, first=3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.04, 0.3, 6.0])


@pytest.mark.parametrize("knob", ["betas", "beta1"])
def test_betas_may_be_functions_for_a_rule_of_ours_too(knob, parameters, walk):
    mine, other = parameters(), parameters()
    schedule = {"betas": lambda t: (0.5 + 0.01 * t, 0.999), "beta1": lambda t: 0.5 + 0.01 * t}[knob]
    walk(optim.Optimizer(mine, adam, **{knob: schedule}), 5)
    plain = optim.Adam(other)
    for t in range(5):
        plain.param_groups[0]["betas"] = (0.5 + 0.01 * t, 0.999)
        walk(plain, t + 1, first=t)
    assert all(map(torch.equal, mine, other))


def test_a_schedule_survives_a_step_that_was_refused(parameters, walk):
    params = parameters()
    optimizer = optim.Adam(params, lr=lambda t: 0.1 * (t + 1))
    params[0].grad = torch.ones(3, 4, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    walk(optimizer, 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
