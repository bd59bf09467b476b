"""What a user may get wrong: an error that names the thing and the way out, and the optimizer as it was."""

import copy

import pytest
import torch

from thalweg import adam, clipped, optim, sgd
from thalweg.core.errors import AlgorithmError, GradientError, KnobError


def snapshot(optimizer):
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return params, copy.deepcopy(optimizer.state_dict())


def assert_as_it_was(optimizer, before):
    params, state_dict = snapshot(optimizer)
    assert all(map(torch.equal, params, before[0]))
    assert state_dict["param_groups"] == before[1]["param_groups"]
    assert state_dict["state"].keys() == before[1]["state"].keys()
    for k, state in before[1]["state"].items():
        assert state_dict["state"][k].keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(state_dict["state"][k][key]), torch.as_tensor(value))


# Knobs


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda ps: optim.Adam(ps, beta=0.9),
            "Adam has no knob 'beta': it takes lr, betas, eps, weight_decay, amsgrad",
        ),
        (
            lambda ps: optim.Lion(ps, eps=0.1),
            r"Lion has no knob 'eps': the knobs of .*lion.* are lr, betas, weight_decay",
        ),
        (
            lambda ps: optim.Optimizer(ps, sgd, momentum=0.9),
            "Optimizer has no knob 'momentum': the knobs of sgd are lr",
        ),
        (lambda ps: optim.SAM(ps, sgd, momentum=0.9), "SAM has no knob 'momentum'"),
        (lambda ps: optim.Adam([{"params": ps, "weight_decy": 0.1}]), "'weight_decy': did you mean 'weight_decay'"),
        (lambda ps: optim.Lion([{"params": ps, "beta": (0.9, 0.99)}]), "'beta': did you mean 'betas'"),
    ],
)
def test_an_unknown_knob_is_named_with_those_there_are(make, match, parameters):
    with pytest.raises(KnobError, match=match) as caught:
        make(parameters())
    assert isinstance(caught.value, TypeError)  # as torch has it


def test_a_negative_lr_is_refused(info, parameters):
    with pytest.raises(ValueError, match=r"Invalid learning rate: -0\.1|Learning rate should be >= 0 but is: -0\.1"):
        info.optim_cls(parameters(info.name), lr=-0.1)


def test_a_negative_lr_is_refused_by_modern_ones(modern, parameters):
    with pytest.raises(AlgorithmError, match=rf"{modern} was given lr=-0\.1: it must not be negative"):
        getattr(optim, modern)(parameters(), lr=-0.1)


def test_a_schedule_that_starts_below_0_is_refused(parameters):
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optim.Adam(parameters(), lr=lambda t: t - 1.0)


# Parameters


def test_a_parameter_twice_is_warned_of_and_steps_once(info, parameters):
    p, q = parameters(info.name)[0], parameters(info.name)[0]
    with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
        twice = info.optim_cls([p, p])
    once = info.optim_cls([q])
    for x, optimizer in ((p, twice), (q, once)):
        x.grad = torch.ones_like(x).to_sparse() if info.only_supports_sparse_grads else torch.ones_like(x)
        optimizer.step()
    assert torch.equal(p, q)


def test_a_parameter_in_two_groups_is_refused(parameters):
    params = parameters()
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optim.Lion([{"params": params}, {"params": params[:1]}])


def test_no_parameters_are_refused_and_an_empty_group_is_not(parameters, walk):
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        optim.Lion([])
    for cls in (optim.Adam, optim.Lion, optim.Prodigy, optim.Adafactor):
        params = parameters()
        optimizer = cls([{"params": []}, {"params": params}])
        walk(optimizer, 2)
        assert not torch.equal(params[0], parameters()[0])
        fresh = cls([{"params": []}, {"params": params}])
        fresh.load_state_dict(optimizer.state_dict())


def test_a_string_or_a_number_is_no_parameter():
    with pytest.raises(TypeError, match="optimizer can only optimize Tensors, but one of the params is float"):
        optim.Lion([1.0])


def test_parameters_on_two_devices_step_apart_where_the_rule_lets_them(drawn):
    here, there = torch.nn.Parameter(drawn(3)), torch.nn.Parameter(torch.ones(3, device="meta"))
    alone = torch.nn.Parameter(drawn(3))
    optimizer, other = optim.Adam([here, there]), optim.Adam([alone])
    for _ in range(3):
        here.grad, there.grad, alone.grad = torch.ones_like(here), torch.ones_like(there), torch.ones_like(alone)
        optimizer.step()
        other.step()
    assert torch.equal(here, alone)


def test_parameters_of_two_kinds_are_refused_where_the_rule_looks_at_all_at_once(drawn):
    for other in (torch.ones(3, device="meta", dtype=torch.float64), torch.ones(3)):
        params = [torch.nn.Parameter(drawn(3)), torch.nn.Parameter(other)]
        optimizer = optim.Prodigy([{"params": [torch.nn.Parameter(drawn(2))]}, {"params": params}])
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        before = [group["params"][0].detach().clone() for group in optimizer.param_groups]
        with pytest.raises(AlgorithmError, match=r"Prodigy looks at all parameters at once.*: make them one kind"):
            optimizer.step()
        assert all(torch.equal(group["params"][0], b) for group, b in zip(optimizer.param_groups, before, strict=True))
        assert not optimizer.state


# Gradients


@pytest.mark.parametrize("name", ["Adam", "Lion", "Muon", "Prodigy"])
def test_a_sparse_gradient_that_cannot_be_taken_leaves_all_groups_as_they_were(name, parameters, walk, drawn):
    groups = [{"params": [torch.nn.Parameter(drawn(3, 4, seed=k))]} for k in range(2)]
    optimizer = getattr(optim, name)(groups, lr=lambda t: 0.1 / (1 + t))
    walk(optimizer, 3)
    optimizer.param_groups[1]["params"][0].grad = torch.ones(3, 4, dtype=torch.float64).to_sparse()
    before = snapshot(optimizer)
    with pytest.raises(GradientError, match=rf"{name} does not support sparse gradients.*\(3, 4\).*SparseAdam"):
        optimizer.step()
    assert_as_it_was(optimizer, before)
    walk(optimizer, 4, first=3)


def test_a_dense_gradient_is_none_for_sparse_adam(parameters, walk):
    optimizer = optim.SparseAdam(parameters("SparseAdam"))
    walk(optimizer, 2)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    before = snapshot(optimizer)
    with pytest.raises(GradientError, match=r"SparseAdam does not support dense.*Adam instead"):
        optimizer.step()
    assert_as_it_was(optimizer, before)


def test_adagrad_takes_no_sparse_gradient_with_weight_decay(drawn):
    p = torch.nn.Parameter(drawn(3, 2))
    optimizer = optim.Adagrad([p], weight_decay=0.1)
    p.grad = drawn(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="Adagrad does not support sparse gradients"):
        optimizer.step()


def test_complex_parameters_are_refused_where_a_whole_tensor_or_vector_is_looked_at():
    for cls in (optim.LAMB, optim.Shampoo, optim.DoG):
        p = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
        p.grad = torch.ones_like(p)
        with pytest.raises(GradientError, match=f"{cls.__name__} does not support complex parameters: it looks at"):
            cls([p]).step()
        assert torch.equal(p, torch.ones_like(p))


def test_a_step_without_the_closure_that_it_needs_is_refused(parameters):
    for cls in (optim.Sophia, optim.SAM):
        params = parameters()
        optimizer = cls(params, lr=lambda t: 0.1)
        for p in params:
            p.grad = torch.ones_like(p)
        before = snapshot(optimizer)
        with pytest.raises(AlgorithmError, match=r"evaluates the objective itself: call step\(closure\)"):
            optimizer.step()
        assert_as_it_was(optimizer, before)


def test_an_execution_that_fails_for_the_second_group_has_not_stepped_the_first(drawn):
    groups = [{"params": [torch.nn.Parameter(drawn(3))], "maximize": up} for up in (False, True)]
    optimizer = optim.Adam(groups, lr=lambda t: 0.1, execution="fused")
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(3, dtype=torch.float64)
    before = snapshot(optimizer)
    with pytest.raises(AlgorithmError, match=r"torch has no fused kernel for maximised\(adam\)"):
        optimizer.step()
    assert_as_it_was(optimizer, before)


def test_a_closure_that_raises_leaves_the_optimizer(parameters, walk):
    optimizer = optim.Optimizer(parameters(), clipped(adam), clip_norm=1.0)
    walk(optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert_as_it_was(optimizer, before)
