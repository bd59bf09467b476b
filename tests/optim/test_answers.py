"""The answer of averaged rules: eval() puts it into the parameters, train() takes it out."""

import copy

import pytest
import torch

from thalweg import adam, averaged, averaged_exponentially, optim
from thalweg.core.errors import AlgorithmError

MADE = {
    "ScheduleFreeSGD": lambda ps: optim.ScheduleFreeSGD(ps, lr=0.1),
    "ScheduleFreeAdamW": lambda ps: optim.ScheduleFreeAdamW(ps, lr=0.1),
    "averaged": lambda ps: optim.Optimizer(ps, averaged(adam), lr=0.1),
    "averaged_exponentially": lambda ps: optim.Optimizer(ps, averaged_exponentially(adam, ema_decay=0.5), lr=0.1),
    "ASGD": lambda ps: optim.ASGD(ps, lr=0.1, t0=0),
}


@pytest.fixture(params=MADE)
def make(request):
    return MADE[request.param]


def copied(params):
    return [p.detach().clone() for p in params]


def test_the_answer_is_in_between_and_gone_afterwards(make, parameters, walk):
    params = parameters()
    optimizer = make(params)
    walk(optimizer, 4)
    before = copied(params)
    optimizer.eval()
    answer = copied(params)
    optimizer.eval()
    assert not any(map(torch.equal, answer, before))
    assert all(map(torch.equal, params, answer))
    optimizer.train()
    optimizer.train()
    assert all(map(torch.equal, params, before))


def test_a_look_at_the_answer_changes_nothing(make, parameters, walk):
    mine, other = parameters(), parameters()
    looked, plain = make(mine), make(other)
    for t in range(6):
        walk(looked, t + 1, first=t)
        with looked.answer():
            pass
    walk(plain, 6)
    assert all(map(torch.equal, mine, other))


def test_the_mean_of_the_trajectory_is_the_answer(parameters, walk):
    params, seen = parameters(), []
    optimizer = MADE["averaged"](params)
    for t in range(5):
        walk(optimizer, t + 1, first=t)
        seen.append(copied(params))
    with optimizer.answer():
        for k, p in enumerate(params):
            torch.testing.assert_close(p.detach(), sum(thetas[k] for thetas in seen) / 5)


def test_asgds_answer_is_what_torch_keeps_as_ax(parameters, walk):
    mine, theirs = parameters(), parameters()
    optimizer, torchs = MADE["ASGD"](mine), torch.optim.ASGD(theirs, lr=0.1, t0=0)
    walk(optimizer, 5)
    walk(torchs, 5)
    with optimizer.answer():
        for p, q in zip(mine, theirs, strict=True):
            torch.testing.assert_close(p.detach(), torchs.state[q]["ax"], rtol=1e-6, atol=1e-7)


def test_it_is_there_after_saving_and_after_loading(make, parameters, walk):
    params = parameters()
    optimizer = make(params)
    walk(optimizer, 4)
    with optimizer.answer():
        answer = copied(params)
    state_dict = optimizer.state_dict()  # which ends what was prepared for the next step
    with optimizer.answer():
        assert all(map(torch.equal, params, answer))
    loaded = make(params)
    loaded.load_state_dict(copy.deepcopy(state_dict))
    with loaded.answer():
        assert all(map(torch.equal, params, answer))


def test_parameters_without_a_gradient_now_have_an_answer_too(make, parameters, walk):
    params = parameters()
    optimizer = make(params)
    walk(optimizer, 4)
    before = copied(params)
    for p in params:
        p.grad = None
    optimizer.step()
    with optimizer.answer():
        assert not any(map(torch.equal, params, before))


def test_no_step_is_taken_while_the_answer_is_in(make, parameters, walk):
    params = parameters()
    optimizer = make(params)
    walk(optimizer, 3)
    with optimizer.answer():
        answer = copied(params)
        with pytest.raises(AlgorithmError, match=r"hold the answer of eval\(\): call train\(\) before the next step"):
            optimizer.step()
        assert all(map(torch.equal, params, answer))
    walk(optimizer, 4, first=3)


def test_no_state_is_saved_while_the_answer_is_in(make, parameters, walk):
    optimizer = make(parameters())
    walk(optimizer, 3)
    with optimizer.answer(), pytest.raises(AlgorithmError, match=r"call train\(\) before saving"):
        optimizer.state_dict()
    assert optimizer.state_dict()["state"]


def test_no_state_is_loaded_while_the_answer_is_in(make, parameters, walk):
    optimizer = make(parameters())
    walk(optimizer, 3)
    state_dict = copy.deepcopy(optimizer.state_dict())
    with optimizer.answer(), pytest.raises(AlgorithmError, match=r"call train\(\) before loading"):
        optimizer.load_state_dict(state_dict)
    optimizer.load_state_dict(state_dict)


def test_a_rule_without_an_answer_leaves_the_parameters(parameters, walk):
    params = parameters()
    optimizer = optim.Adam(params)
    walk(optimizer, 3)
    before = copied(params)
    with optimizer.answer():
        assert all(map(torch.equal, params, before))
        walk(optimizer, 4, first=3)


def test_before_the_first_step_there_is_nothing_to_put_in(make, parameters):
    params = parameters()
    before = copied(params)
    with make(params).answer():
        assert all(map(torch.equal, params, before))


def test_schedule_free_takes_gradients_between_its_answer_and_its_fast_iterate(parameters, walk):
    params = parameters()
    optimizer = optim.ScheduleFreeSGD(params, lr=0.1, momentum=0.75)
    walk(optimizer, 5)
    trained = copied(params)
    with optimizer.answer():
        for x, y in zip(params, trained, strict=True):
            torch.testing.assert_close(y, 0.25 * optimizer.state[x]["z"] + 0.75 * x.detach())
