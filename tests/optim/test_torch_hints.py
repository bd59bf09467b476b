"""Hints of execution, and complex parameters, leave the trajectory as it is."""

import copy

import pytest
import torch

HINTS = {"foreach": 0, "fused": 0, "capturable": 1e-5}  # and the difference allowed: captured numbers are float32


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_hints_do_not_change_the_trajectory(info, config, parameters, walk, assert_same):
    plain = parameters(info.name)
    walk(info.optim_cls(plain, **copy.deepcopy(config.kwargs)), 10)
    for hint in HINTS.keys() & info.optim_cls.__signature__.parameters.keys():
        kwargs, hinted = copy.deepcopy(config.kwargs), parameters(info.name)
        if hint == "foreach" and "lr" in kwargs:
            kwargs["lr"] = float(kwargs["lr"])  # torch refuses this hint with a tensor lr
        walk(info.optim_cls(hinted, **kwargs, **{hint: True}), 10)
        assert_same(hinted, plain, HINTS[hint])


@pytest.mark.of(lambda info, kwargs: "differentiable" in info.supported_impls)
def test_differentiable_does_not_change_the_trajectory(info, config, parameters, walk, assert_same):
    plain, graphed = parameters(info.name), [p.detach() for p in parameters(info.name)]
    walk(info.optim_cls(plain, **copy.deepcopy(config.kwargs)), 10)
    walk(info.optim_cls(graphed, **copy.deepcopy(config.kwargs), differentiable=True), 10)
    assert_same(graphed, [p.detach() for p in plain], 1e-14)


@pytest.mark.of(lambda info, kwargs: info.supports_complex)
@pytest.mark.parametrize("execution", [None, "eager"])
def test_complex_parameters_equal_pairs_of_real_ones(info, config, execution, drawn):
    kwargs = copy.deepcopy(config.kwargs), copy.deepcopy(config.kwargs)
    one = [drawn(4, 3, seed=1, dtype=torch.complex128), drawn(2, dtype=torch.complex64), drawn(5)]
    two = [torch.view_as_real(p).clone() if p.is_complex() else p.clone() for p in one]
    mine = info.optim_cls(one, **kwargs[0], execution=execution)
    other = info.optim_cls(two, **kwargs[1], execution=execution)
    for t in range(10):
        for k, (p, q) in enumerate(zip(one, two, strict=True)):
            p.grad = drawn(*p.shape, seed=10 * t + k, dtype=p.dtype)
            q.grad = torch.view_as_real(p.grad) if p.is_complex() else p.grad
        mine.step()
        other.step()
    for p, q in zip(one, two, strict=True):
        assert torch.equal(torch.view_as_real(p) if p.is_complex() else p, q)
        for key, value in mine.state[p].items():
            if value.dim() == p.dim() > 0:
                assert value.is_complex() == p.is_complex(), key


@pytest.mark.of(lambda info, kwargs: info.supports_complex)
def test_complex_parameters_have_torchs_trajectory(info, config, drawn):
    kwargs = copy.deepcopy(config.kwargs), copy.deepcopy(config.kwargs)
    mine, theirs = [(0.5 * drawn(2, dtype=torch.complex128)).requires_grad_() for _ in range(2)]
    optimizers = info.optim_cls([mine], **kwargs[0]), getattr(torch.optim, info.name)([theirs], **kwargs[1])
    for _ in range(5):
        for p, optimizer in zip((mine, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            rosenbrock(p).abs().backward()
            torch.nn.utils.clip_grad_norm_([p], 1.0)
            optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.of(lambda info: not info.supports_complex)
def test_what_takes_no_complex_parameters_says_so(info):
    p = torch.ones(2, 3, dtype=torch.complex64)
    p.grad = torch.ones_like(p)
    with pytest.raises((ValueError, RuntimeError), match=f"{info.name} does not support complex parameters"):
        info.optim_cls([p]).step()
