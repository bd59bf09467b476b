"""torch's own acceptance configurations: each has torch's trajectory, in float64, by whatever execution."""

import copy
import io

import pytest
import torch

from thalweg.core.errors import AlgorithmError

LOOKS_AT_MATRICES = ("Adafactor", "Muon")


@pytest.fixture(autouse=True)
def double_by_default():
    """torch computes the numbers of ASGD in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def twins(info, kwargs, parameters, **more):
    """The parameters and optimizer of ours, and of torch's, from the same start."""
    mine, theirs = parameters(info.name), parameters(info.name)
    # torch computes with a tensor lr in its own dtype
    kwargs = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    torchs = getattr(torch.optim, info.name)
    return mine, info.optim_cls(mine, **copy.deepcopy(kwargs), **more), theirs, torchs(theirs, **copy.deepcopy(kwargs))


def saved_and_loaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("execution", [None, "eager"])
def test_twenty_steps_are_torchs(info, config, execution, parameters, walk, assert_same):
    mine, optimizer, theirs, torchs = twins(info, config.kwargs, parameters, execution=execution)
    walk(optimizer, 20)
    walk(torchs, 20)
    assert_same(mine, theirs)


@pytest.mark.of(lambda info, kwargs: info.name not in (*LOOKS_AT_MATRICES, "SparseAdam"))
def test_twenty_steps_of_the_kernel_are_torchs(info, config, parameters, walk, assert_same):
    mine, optimizer, theirs, torchs = twins(info, config.kwargs, parameters, execution="kernel")
    walk(optimizer, 20)
    walk(torchs, 20)
    assert_same(mine, theirs)


@pytest.mark.of(lambda info: info.name in LOOKS_AT_MATRICES)
def test_what_looks_at_matrices_says_that_it_has_no_kernel(info, parameters, walk):
    with pytest.raises(AlgorithmError, match="not elementwise: it looks at a whole tensor at once"):
        walk(info.optim_cls(parameters(info.name), execution="kernel"), 1)


def test_saved_loaded_and_gone_on_it_is_the_uninterrupted_run(info, config, parameters, walk):
    whole, interrupted = parameters(info.name), parameters(info.name)
    walk(info.optim_cls(whole, **copy.deepcopy(config.kwargs)), 8)
    first = info.optim_cls(interrupted, **copy.deepcopy(config.kwargs))
    walk(first, 5)
    second = info.optim_cls(interrupted, **copy.deepcopy(config.kwargs))
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    walk(second, 8, first=5)
    assert all(map(torch.equal, interrupted, whole))


def test_the_state_dict_is_torchs_key_for_key(info, config, parameters, walk, assert_same):
    _, optimizer, _, torchs = twins(info, config.kwargs, parameters)
    walk(optimizer, 3)
    walk(torchs, 3)
    mine, theirs = optimizer.state_dict(), torchs.state_dict()
    assert mine["state"].keys() == theirs["state"].keys()
    for k, state in theirs["state"].items():
        held = {key: value for key, value in state.items() if value is not None}
        assert mine["state"][k].keys() == held.keys()
        for key, value in held.items():
            assert_same([torch.as_tensor(mine["state"][k][key]).double()], [torch.as_tensor(value).double()], 1e-7)
    for group, its in zip(mine["param_groups"], theirs["param_groups"], strict=True):
        assert group.keys() == its.keys()
        assert {k: v for k, v in group.items() if k != "betas"} == {k: v for k, v in its.items() if k != "betas"}


def test_groups_equal_several_optimizers(info, config, parameters, walk):
    together, apart = parameters(info.name), parameters(info.name)
    settings = [{}, {"lr": 0.037}, {"lr": 0.21, "maximize": True}]
    if "weight_decay" in info.optim_cls.__signature__.parameters:
        settings[1]["weight_decay"] = 0.3
    if info.name == "Muon":
        del settings[2]["maximize"]
    groups = [{"params": [p], **setting} for p, setting in zip(together, settings, strict=False)]
    optimizer = info.optim_cls(groups, **copy.deepcopy(config.kwargs))
    others = [
        info.optim_cls([p], **{**copy.deepcopy(config.kwargs), **setting})
        for p, setting in zip(apart, settings, strict=False)
    ]
    for t in range(5):
        walk(optimizer, t + 1, first=t)
        for p, q, other in zip(together, apart, others, strict=False):
            q.grad = p.grad
            other.step()
    assert all(map(torch.equal, together, apart))
