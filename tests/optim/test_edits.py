"""What users change between steps shows in the next one, as with torch.optim."""

import copy
import pickle

import pytest
import torch

from thalweg import optim
from thalweg.core.errors import StateError

CLASSES = ["Adam", "SGD", "RMSprop", "NAdam", "ASGD", "Rprop"]
SETTINGS = {"SGD": {"lr": 0.05, "momentum": 0.9}, "RMSprop": {"momentum": 0.5, "centered": True}}


@pytest.fixture(autouse=True)
def double_by_default():
    """torch computes the numbers of ASGD in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=[(name, execution) for name in CLASSES for execution in (None, "eager")], ids=str)
def same_after(request, parameters, walk, assert_same):
    """The same edit after 3 steps of ours and torch's; then both go on."""

    def run(edit, dtype=torch.float64):
        name, execution = request.param
        ends = []
        for module, how in ((optim, {"execution": execution}), (torch.optim, {})):
            params = parameters(dtype=dtype)
            optimizer = getattr(module, name)(params, **SETTINGS.get(name, {}), **how)
            walk(optimizer, 3)
            edit(optimizer, params)
            walk(optimizer, 8, first=3)
            ends.append([p for group in optimizer.param_groups for p in group["params"]])
        assert_same(*ends)

    return run


def test_another_lr(same_after):
    def edit(optimizer, params):
        optimizer.param_groups[0]["lr"] = 0.21

    same_after(edit)


def test_another_sign(same_after):
    def edit(optimizer, params):
        optimizer.param_groups[0]["maximize"] = True

    same_after(edit)


def test_a_parameter_exchanged_for_a_longer_one_with_its_state(same_after):
    """As Gaussian splatting does where it splits."""

    def edit(optimizer, params):
        old = params[1]
        new = torch.nn.Parameter(torch.cat([old.detach(), old.detach()[:2]]))
        state = optimizer.state.pop(old)
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == old.shape:
                state[key] = torch.cat([value, value[:2]])
        optimizer.state[new] = state
        optimizer.param_groups[0]["params"][1] = new

    same_after(edit)


def test_a_parameter_exchanged_for_a_new_one(same_after):
    def edit(optimizer, params):
        optimizer.state.pop(params[0])
        optimizer.param_groups[0]["params"][0] = torch.nn.Parameter(torch.ones(2, 2))

    same_after(edit)


def test_a_parameter_taken_out(same_after):
    def edit(optimizer, params):
        del optimizer.param_groups[0]["params"][0]

    same_after(edit)


def test_the_step_count_set_back(same_after):
    def edit(optimizer, params):
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = torch.zeros_like(state["step"])

    same_after(edit)


def test_the_step_count_of_one_parameter_written_in_place(same_after):
    def edit(optimizer, params):
        if "step" in optimizer.state[params[1]]:
            optimizer.state[params[1]]["step"].fill_(40)

    same_after(edit)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_remembered_halved(same_after, in_place):
    def edit(optimizer, params):
        for p, state in optimizer.state.items():
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == p.shape and key != "step":
                    state[key] = value.mul_(0.5) if in_place else value * 0.5

    same_after(edit)


def test_all_forgotten(same_after):
    def edit(optimizer, params):
        optimizer.state.clear()

    same_after(edit)


def test_other_data_under_the_same_parameters(same_after):
    def edit(optimizer, params):
        for p in params:
            p.data = torch.full_like(p, 0.3)

    same_after(edit)


def test_data_of_another_layout(same_after):
    def edit(optimizer, params):
        params[0].data = params[0].detach().t().contiguous().t()

    same_after(edit)


def test_data_of_another_shape_is_refused_until_the_state_has_it_too(parameters, walk):
    params = parameters()
    optimizer = optim.Adam(params)
    walk(optimizer, 2)
    params[1].data = torch.ones(50_000)
    with pytest.raises(StateError, match=r"shape \(50000,\) holds exp_avg of shape \(5,\)"):
        walk(optimizer, 3, first=2)
    assert torch.equal(params[1], torch.ones(50_000))


def test_in_place_writes(same_after):
    def edit(optimizer, params):
        with torch.no_grad():
            for p in params:
                p.clamp_(-0.1, 0.1)

    same_after(edit)


@pytest.mark.parametrize("execution", [None, "eager"])
def test_a_module_made_double_goes_on_in_double(execution, parameters, walk):
    module = torch.nn.ParameterList(parameters(dtype=torch.float32))
    exact = parameters()
    optimizer, other = optim.Adam(module.parameters(), execution=execution), optim.Adam(exact)
    walk(optimizer, 3)
    walk(other, 3)
    module.double()
    walk(optimizer, 8, first=3)
    walk(other, 8, first=3)
    for p, q in zip(module, exact, strict=True):
        assert p.dtype == torch.float64
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_copies_go_their_own_way_to_the_same_end(info, parameters, walk):
    params = parameters(info.name)
    optimizer = info.optim_cls(params)
    walk(optimizer, 3)
    copied, its = copy.deepcopy((optimizer, params))
    walk(optimizer, 6, first=3)
    assert not any(map(torch.equal, params, its))
    walk(copied, 6, first=3)
    assert all(map(torch.equal, params, its))


def test_pickled_and_unpickled_it_goes_on(info, parameters, walk):
    params = parameters(info.name)
    optimizer = info.optim_cls(params)
    walk(optimizer, 3)
    pickled, its = pickle.loads(pickle.dumps((optimizer, params)))
    walk(optimizer, 6, first=3)
    walk(pickled, 6, first=3)
    assert all(map(torch.equal, params, its))


@pytest.mark.of(lambda modern: modern != "Sophia")  # its step asks for a closure
def test_modern_ones_are_pickled_too(modern, parameters, walk):
    params = parameters()
    optimizer = getattr(optim, modern)(params)
    walk(optimizer, 3)
    pickled, its = pickle.loads(pickle.dumps((optimizer, params)))
    walk(optimizer, 6, first=3)
    walk(pickled, 6, first=3)
    assert all(map(torch.equal, params, its))
