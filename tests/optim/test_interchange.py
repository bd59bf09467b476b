"""Checkpoints: torch's go on here and ours go on there, by whatever names and dtypes."""

import copy
import io

import pytest
import torch

from thalweg import optim, sgd
from thalweg.core.errors import StateError

BACK = pytest.mark.parametrize("back", [False, True], ids=["from_torch", "to_torch"])
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-10}


@pytest.fixture(params=TOLERANCES, ids=str)
def dtype(request):
    torch.set_default_dtype(request.param)  # in which torch computes the numbers of ASGD
    yield request.param
    torch.set_default_dtype(torch.float32)


def saved_and_loaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def settings(config):
    """torch computes with a tensor lr in its own dtype, we with the number."""
    lr = {"lr": config.kwargs["lr"].item()} if isinstance(config.kwargs.get("lr"), torch.Tensor) else {}
    return {**copy.deepcopy(config.kwargs), **lr}


def goes_on(info, kwargs, back, steps, dtype, parameters, walk, assert_same):
    classes = [getattr(torch.optim, info.name), info.optim_cls]
    first, second = reversed(classes) if back else classes
    whole, params = parameters(info.name, dtype), parameters(info.name, dtype)
    walk(classes[0](whole, **copy.deepcopy(kwargs)), steps + 4)
    before = first(params, **copy.deepcopy(kwargs))
    walk(before, steps)
    after = second(params, **copy.deepcopy(kwargs))
    after.load_state_dict(saved_and_loaded(before.state_dict()) if steps > 1 else before.state_dict())
    walk(after, steps + 4, first=steps)
    assert_same(params, whole, TOLERANCES[dtype])


@BACK
@pytest.mark.parametrize("dtype", [torch.float64], ids=str, indirect=True)
def test_a_checkpoint_goes_on_to_the_same_trajectory(info, config, back, dtype, parameters, walk, assert_same):
    goes_on(info, settings(config), back, 4, dtype, parameters, walk, assert_same)


@BACK
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_so_it_does_after_any_number_of_steps(info, back, steps, dtype, parameters, walk, assert_same):
    goes_on(info, {}, back, steps, dtype, parameters, walk, assert_same)


def test_there_and_back_again_is_the_run_itself(info, parameters, walk):
    whole, params = parameters(info.name), parameters(info.name)
    walk(info.optim_cls(whole), 6)
    optimizer = info.optim_cls(params)
    for t in range(6):
        walk(optimizer, t + 1, first=t)
        torchs = getattr(torch.optim, info.name)(params)
        torchs.load_state_dict(optimizer.state_dict())
        optimizer = info.optim_cls(params)
        optimizer.load_state_dict(torchs.state_dict())
    assert all(map(torch.equal, params, whole))


def test_settings_of_the_groups_are_loaded_too(parameters):
    def groups():
        a, b, c = parameters()
        return [{"params": [a], "lr": 0.5}, {"params": [b, c], "betas": (0.5, 0.6), "weight_decay": 0.7}]

    torchs = torch.optim.Adam(groups(), amsgrad=True)
    optimizer = optim.Adam([{**group, "lr": 0.3, "betas": (0.1, 0.2)} for group in groups()])
    optimizer.load_state_dict(torchs.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1e-3]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999), (0.5, 0.6)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.7]
    assert all(group["amsgrad"] for group in optimizer.param_groups)


def test_a_state_of_old_with_steps_as_numbers_and_fewer_settings_is_loaded(parameters, walk, assert_same):
    whole, params = parameters(), parameters()
    walk(torch.optim.Adam(whole), 8)
    torchs = torch.optim.Adam(params)
    walk(torchs, 5)
    old = torchs.state_dict()
    for state in old["state"].values():
        state["step"] = int(state["step"])
    for flag in ("foreach", "fused", "maximize", "capturable", "differentiable", "decoupled_weight_decay"):
        del old["param_groups"][0][flag]
    optimizer = optim.Adam(params)
    optimizer.load_state_dict(old)
    walk(optimizer, 8, first=5)
    assert_same(params, whole)
    assert torch.is_tensor(optimizer.state[params[0]]["step"])


def test_a_float32_state_of_bfloat16_parameters_stays_float32(parameters, walk):
    params = parameters(dtype=torch.bfloat16)
    optimizer = optim.AdamW(params)
    walk(optimizer, 3)
    loaded = optim.AdamW(params)
    loaded.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    for p in params:
        for key, value in optimizer.state[p].items():
            assert loaded.state[p][key].dtype == value.dtype == torch.float32
            assert torch.equal(loaded.state[p][key], value)


def test_what_was_loaded_is_a_copy(parameters, walk):
    params = parameters()
    optimizer = optim.AdamW(params)
    walk(optimizer, 2)
    state_dict = optimizer.state_dict()
    before = copy.deepcopy(state_dict["state"])
    loaded = optim.AdamW(parameters())
    loaded.load_state_dict(state_dict)
    walk(loaded, 2)
    for k, state in before.items():
        assert all(torch.equal(state_dict["state"][k][key], value) for key, value in state.items())


# By names


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)).double()


def test_parameters_in_another_order_are_matched_by_name(model, walk, assert_same):
    other = copy.deepcopy(model)
    walk(torch.optim.Adam(model.named_parameters()), 8)
    optimizer = optim.Adam(other.named_parameters())
    walk(optimizer, 5)
    turned = optim.Adam(list(other.named_parameters())[::-1])
    turned.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    for name, p in other.named_parameters():
        assert turned.state[p]["exp_avg"].shape == p.shape, name
        assert torch.equal(turned.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])
    resorted = optim.Adam(other.named_parameters())
    resorted.load_state_dict(turned.state_dict())
    walk(resorted, 8, first=5)
    assert_same(other.parameters(), model.parameters())


def test_names_move_between_groups_with_their_state(model, walk):
    optimizer = optim.Adam(model.named_parameters())
    walk(optimizer, 3)
    named = list(model.named_parameters())
    biases, weights = [p for p in named if "bias" in p[0]], [p for p in named if "weight" in p[0]]
    split = optim.Adam([{"params": biases, "lr": 0.5}, {"params": weights}])
    split.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(split.state[p]["exp_avg_sq"], optimizer.state[p]["exp_avg_sq"]) for p in model.parameters())


# What is refused


def refused(optimizer, state_dict, match):
    """The error names the thing, and the optimizer is as it was."""
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(StateError, match=match):
        optimizer.load_state_dict(state_dict)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert before["state"].keys() == after["state"].keys()
    for k, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(after["state"][k][key]), torch.as_tensor(value))


def test_names_of_another_model_are_refused(model, walk):
    optimizer = optim.Adam(model.named_parameters())
    walk(optimizer, 2)
    stranger = optim.Adam([(f"encoder.{name}", p) for name, p in model.named_parameters()])
    refused(optimizer, stranger.state_dict(), r"no state for 0\.weight.*has one for encoder\.0\.bias")


def test_the_state_of_another_rule_is_refused(info, parameters, walk):
    optimizer = info.optim_cls(parameters(info.name))
    walk(optimizer, 2)
    state_dict = copy.deepcopy(optimizer.state_dict())
    for k in range(len(parameters(info.name))):
        state_dict["state"].setdefault(k, {})["hessian"] = torch.ones(())
    refused(optimizer, state_dict, f"remembers 'hessian' of a parameter, {info.name} remembers")


def test_rmsprops_state_is_no_adams(parameters, walk):
    adam, rmsprop = optim.Adam(parameters()), torch.optim.RMSprop(parameters())
    walk(adam, 2)
    walk(rmsprop, 2)
    refused(adam, rmsprop.state_dict(), "remembers 'square_avg' of a parameter, Adam remembers exp_avg, exp_avg_sq")
    plain = optim.Optimizer(parameters(), sgd)
    refused(plain, rmsprop.state_dict(), "Optimizer remembers nothing")


def test_the_state_of_other_shapes_is_refused(drawn, walk):
    optimizer = optim.Adam([torch.nn.Parameter(drawn(3, 4)), torch.nn.Parameter(drawn(5))])
    other = optim.Adam([torch.nn.Parameter(drawn(3, 4)), torch.nn.Parameter(drawn(6))])
    walk(optimizer, 2)
    walk(other, 2)
    refused(optimizer, other.state_dict(), r"exp_avg of shape \(6,\) for a parameter of shape \(5,\): expected \(5,\)")


def test_other_groups_are_refused_as_torch_does(parameters, walk):
    optimizer = optim.Adam(parameters())
    walk(optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(optim.Adam(parameters()[:2]).state_dict())
    assert str(optimizer.state_dict()) == str(before)
