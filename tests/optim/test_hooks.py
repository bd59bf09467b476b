"""Hooks, closures and groups that come later, as torch.optim has them."""

import copy

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from thalweg import optim
from thalweg.core.errors import KnobError

BOTH = pytest.mark.parametrize("adam", [optim.Adam, torch.optim.Adam], ids=["ours", "torchs"])


@pytest.fixture
def p():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    parameter.grad = torch.tensor([0.5, -0.5])
    return parameter


@BOTH
def test_hooks_of_a_step_run_in_torchs_order(adam, p):
    optimizer, seen = adam([p]), []

    def note(name):
        return lambda who, args, kwargs: seen.append((name, who is optimizer, len(args), list(kwargs)))

    handles = [
        register_optimizer_step_pre_hook(note("global before")),
        register_optimizer_step_post_hook(note("global after")),
        optimizer.register_step_post_hook(note("after")),
        optimizer.register_step_pre_hook(note("before")),
        optimizer.register_step_pre_hook(note("before, second")),
    ]
    try:
        optimizer.step()
        handles[4].remove()
        optimizer.step(lambda: seen.append(("closure",)) or 3.0)
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step()
    names = ["global before", "before", "before, second", "after", "global after"]
    names += ["global before", "before", "closure", "after", "global after"]
    assert [entry[0] for entry in seen] == names
    assert all(entry[1:] == (True, 1, []) for entry in seen[:5])
    assert all(entry[1:] == (True, 2, []) for entry in seen[5:] if entry[0] != "closure")


@BOTH
def test_a_hook_before_the_step_may_replace_the_closure(adam, p):
    optimizer = adam([p])
    optimizer.register_step_pre_hook(lambda who, args, kwargs: ((who, lambda: 7.0), {}))
    assert optimizer.step(lambda: 3.0) == 7.0


@BOTH
def test_a_hook_before_the_step_sees_gradients_and_a_hook_after_it_new_parameters(adam, p):
    optimizer, seen = adam([p], lr=0.1), []
    optimizer.register_step_pre_hook(lambda who, args, kwargs: setattr(p, "grad", -p.grad))
    optimizer.register_step_post_hook(lambda who, args, kwargs: seen.append(p.detach().clone()))
    optimizer.step()
    torch.testing.assert_close(seen[0], torch.tensor([1.1, 1.9]))


@BOTH
def test_hooks_of_the_state_dict_run_and_may_change_it(adam, p):
    optimizer, seen = adam([p]), []
    optimizer.step()
    optimizer.register_state_dict_pre_hook(lambda who: seen.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda who, saved: {**saved, "note": "mine"})
    saved = optimizer.state_dict()
    assert saved["note"] == "mine" and seen == ["before saving"]

    def doubled(who, given):
        changed = copy.deepcopy(given)
        changed["state"][0]["exp_avg"] *= 2
        return changed

    other = adam([p])
    other.register_load_state_dict_pre_hook(doubled)
    other.register_load_state_dict_post_hook(lambda who: seen.append("after loading"))
    other.load_state_dict(saved)
    assert torch.equal(other.state[p]["exp_avg"], 2 * optimizer.state[p]["exp_avg"])
    assert seen[-1] == "after loading"


@BOTH
def test_the_loss_of_the_closure_is_returned_and_computed_with_gradients(adam, p):
    optimizer = adam([p])

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 5.0
        assert optimizer.step(closure=closure).item() < 5.0
    assert optimizer.step() is None


def test_the_profiler_sees_the_step(p):
    with torch.autograd.profiler.profile() as profile:
        optim.Adam([p]).step()
    assert "Optimizer.step#Adam.step" in [event.key for event in profile.key_averages()]


def test_a_group_that_comes_later_steps_as_with_torch(parameters, walk, assert_same):
    mine, theirs = parameters(), parameters()
    for params, cls in ((mine, optim.RMSprop), (theirs, torch.optim.RMSprop)):
        optimizer = cls(params[:1], lr=0.02, momentum=0.5)
        walk(optimizer, 3)
        optimizer.add_param_group({"params": params[1], "lr": 0.3, "momentum": 0.0})
        walk(optimizer, 6, first=3)
        optimizer.add_param_group({"params": params[2:], "centered": True})
        walk(optimizer, 9, first=6)
    assert_same(mine, theirs)


def test_a_slip_in_a_later_group_is_refused_and_changes_nothing(parameters):
    params = parameters()
    optimizer = optim.RMSprop(params[:1])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(KnobError, match="has 'momentun': did you mean 'momentum'"):
        optimizer.add_param_group({"params": params[1:], "momentun": 0.9})
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": params})
    assert optimizer.state_dict() == before


def test_a_group_may_carry_what_is_the_users(parameters, walk):
    optimizer = optim.Adam([{"params": parameters(), "name": "encoder", "initial_lr": 1.0}])
    walk(optimizer, 1)
    assert optimizer.state_dict()["param_groups"][0]["name"] == "encoder"
