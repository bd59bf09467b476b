"""float16 and bfloat16 parameters: no NaN from zeros, memory in float32, and small steps that are not lost."""

import pytest
import torch

from thalweg import adam, compensated, optim, sgd, stochastically_rounded
from thalweg.execution.closure_optim import ClosureOptimizer

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
CLASSES = [
    name
    for name in optim.__all__
    if name not in ("Optimizer", "SAM", "Sophia", "SparseAdam")
    and not issubclass(getattr(optim, name), ClosureOptimizer)
]


def steps(optimizer, params, gradients):
    for g in gradients:
        for p in params:
            p.grad = None if g is None else g(p)
        optimizer.step()


@HALF
@pytest.mark.parametrize("name", CLASSES)
def test_zero_gradients_never_give_nan(name, dtype, drawn):
    p = torch.nn.Parameter(drawn(3, 4).to(dtype))
    optimizer = getattr(optim, name)([p])
    steps(optimizer, [p], [torch.zeros_like] * 4)
    assert p.isfinite().all()
    steps(optimizer, [p], [torch.ones_like, torch.zeros_like, torch.zeros_like])
    assert p.isfinite().all() and p.dtype == dtype


@HALF
def test_zero_gradients_never_give_nan_to_what_evaluates_the_objective(dtype):
    for cls in (optim.SAM, optim.Sophia):
        p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = cls([p])
        for _ in range(3):
            optimizer.step(lambda p=p: (p * p * 0).sum())
        assert p.isfinite().all()


@HALF
def test_zero_rows_never_give_nan(dtype):
    p = torch.nn.Parameter(torch.ones(3, 2, dtype=dtype))
    optimizer = optim.SparseAdam([p], lr=0.1)
    index = torch.tensor([[0, 2]])
    for value in (0.0, 1.0, 0.0):
        values = torch.full((2, 2), value, dtype=dtype)
        p.grad = torch.sparse_coo_tensor(index, values, (3, 2), check_invariants=True)
        optimizer.step()
    assert p.isfinite().all() and torch.equal(p[1], torch.ones(2, dtype=dtype)) and p[0, 0] < 1
    assert optimizer.state[p]["exp_avg_sq"].dtype == torch.float32


def test_torchs_give_nan():
    """Why eps and v are kept in float32: in float16 1e-8 is 0."""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    steps(torch.optim.Adam([p], foreach=False), [p], [torch.zeros_like] * 3)
    assert p.isnan().all()


@HALF
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_remembered_is_float32(name, dtype, drawn):
    p = torch.nn.Parameter(drawn(3, 4).to(dtype))
    optimizer = getattr(optim, name)([p])
    steps(optimizer, [p], [torch.ones_like] * 2)
    for key, value in optimizer.state[p].items():
        assert not torch.is_tensor(value) or value.dim() == 0 or value.dtype == torch.float32, key


@HALF
@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Lion", "Adafactor", "LAMB"])
def test_a_step_is_that_of_float32_rounded(name, dtype, drawn):
    half = torch.nn.Parameter(drawn(3, 4).to(dtype))
    exact = torch.nn.Parameter(half.detach().float())
    g = drawn(3, 4, seed=1).to(dtype)
    for p in (half, exact):
        optimizer = getattr(optim, name)([p], lr=0.1)
        steps(optimizer, [p], [lambda p: g.to(p.dtype)])
    assert torch.equal(half, exact.to(dtype))


# Where bfloat16 stalls


def distance(rule, steps_taken, dtype=torch.bfloat16, **knobs):
    """How far 1,000 parameters get from 1 by constant steps, each much smaller than bfloat16's at 1."""
    p = torch.nn.Parameter(torch.ones(1000, dtype=dtype))
    optimizer = optim.Optimizer([p], rule, **knobs)
    steps(optimizer, [p], [torch.ones_like] * steps_taken)
    return (1 - p.double()).mean().item()


@pytest.mark.parametrize("rule", [sgd, adam], ids=lambda rule: rule.name)
def test_plain_bfloat16_stalls_and_the_combinators_do_not(rule):
    exact = distance(rule, 200, torch.float32, lr=5e-4)
    assert exact == pytest.approx(0.1, rel=1e-3)
    assert distance(rule, 200, lr=5e-4) == 0
    assert distance(compensated(rule), 200, lr=5e-4) == pytest.approx(exact, abs=0.002)
    assert distance(stochastically_rounded(rule), 200, lr=5e-4) == pytest.approx(exact, abs=0.002)


@pytest.mark.parametrize("round", [compensated, stochastically_rounded], ids=lambda f: f.__name__)
def test_a_bfloat16_regression_goes_on_where_plain_bfloat16_stalls(round, drawn):
    x = drawn(64, 8)
    target = drawn(8, seed=1)

    def error(rule):
        p = torch.nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))
        optimizer = optim.Optimizer([p], rule, lr=1e-3)
        for _ in range(1500):
            p.grad = (x.T @ (x @ (p.detach().double() - target)) / len(x)).to(p.dtype)
            optimizer.step()
        return (p.detach().double() - target).norm()

    assert error(round(sgd)) < 0.8 * error(sgd)


@pytest.mark.parametrize("round", [compensated, stochastically_rounded], ids=lambda f: f.__name__)
def test_saved_and_loaded_the_rounding_goes_on(round, drawn):
    rule = round(adam)

    def fresh():
        p = torch.nn.Parameter(drawn(5, 3).to(torch.bfloat16))
        return p, optim.Optimizer([p], rule, lr=1e-3)

    gradients = [lambda p, t=t: drawn(5, 3, seed=t).to(p.dtype) for t in range(6)]
    (whole, optimizer), (p, first) = fresh(), fresh()
    steps(optimizer, [whole], gradients)
    steps(first, [p], gradients[:3])
    second = optim.Optimizer([p], rule, lr=1e-3)
    second.load_state_dict(first.state_dict())
    steps(second, [p], gradients[3:])
    assert torch.equal(p, whole)
