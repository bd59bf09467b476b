"""Rules that evaluate the objective themselves, behind the face of torch.optim."""

import copy
import io

import pytest
import torch
from torch import nn

from thalweg.core.derivatives import gradient, hessian, hessian_at
from thalweg.core.errors import AlgorithmError, KnobError, StateError
from thalweg.core.rule import clock, rule, zeros
from thalweg.core.status import Status, going
from thalweg.execution.closure_optim import ClosureOptimizer

DOUBLE = torch.float64


@rule(per="vector", batched=False)
def halfway_newton(g, theta, f, v=zeros, t=clock, status=going, *, lr=1.0):
    """Newton's step, whole at lr 1; it remembers the last one, and stops where the gradient is nothing."""
    if not g.any():
        return torch.zeros_like(g), v, t, int(Status.CONVERGED)
    step = -lr * torch.linalg.solve(hessian(f, theta), g)
    return step, step, t + 1, int(Status.GOING_ON)


@rule(per="vector", batched=False)
def elsewhere(g, theta, f, *, lr=1.0):
    """A step along the gradient at another place."""
    return -lr * gradient(f, theta + 1.0)


def drawn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def bowl(*params):
    """A convex function of several parameters, not separable."""
    x = torch.cat([p.reshape(-1) for p in params])
    return (x * torch.arange(1, len(x) + 1)).square().sum() / 2 + x.sum() ** 2 + x.sum()


def minimum(n):
    x = torch.zeros(n, dtype=DOUBLE, requires_grad=True)
    g = torch.autograd.grad(bowl(x), x)[0]
    return -torch.linalg.solve(torch.autograd.functional.hessian(bowl, torch.zeros(n, dtype=DOUBLE)), g)


def test_the_parameters_of_all_groups_are_one_vector():
    a, b = nn.Parameter(drawn(2, 2)), nn.Parameter(drawn(3, seed=1))
    optimizer = ClosureOptimizer([{"params": [a]}, {"params": [b]}], halfway_newton)
    optimizer.step(lambda: bowl(a, b))
    torch.testing.assert_close(torch.cat([a.detach().reshape(-1), b.detach()]), minimum(7))


def test_it_returns_the_loss_before_the_step_and_leaves_its_gradient():
    a = nn.Parameter(drawn(4))
    before, g = bowl(a).item(), torch.autograd.grad(bowl(a), a)[0]
    assert ClosureOptimizer([a], halfway_newton).step(lambda: bowl(a)).item() == before
    assert torch.equal(a.grad, g)


def test_the_closure_may_call_backward_where_no_second_derivatives_are_asked_for():
    a, b = nn.Parameter(drawn(4)), nn.Parameter(drawn(4))

    def backward():
        optimizer.zero_grad()
        loss = bowl(a)
        loss.backward()
        return loss

    optimizer = ClosureOptimizer([a], elsewhere, lr=0.01)
    optimizer.step(backward)
    ClosureOptimizer([b], elsewhere, lr=0.01).step(lambda: bowl(b))
    assert torch.equal(a, b)


def test_where_they_are_asked_for_backward_in_the_closure_is_refused_with_a_line():
    a = nn.Parameter(drawn(4))

    def backward():
        loss = bowl(a)
        loss.backward()
        return loss

    with pytest.raises(AlgorithmError, match="return the loss without backward"):
        ClosureOptimizer([a], halfway_newton).step(backward)
    assert torch.equal(a, drawn(4))


def test_maximize_climbs():
    a, b = nn.Parameter(drawn(4)), nn.Parameter(drawn(4))
    up = ClosureOptimizer([a], halfway_newton, maximize=True)
    loss = up.step(lambda: -bowl(a))
    assert loss.item() == -bowl(b).item()
    ClosureOptimizer([b], halfway_newton).step(lambda: bowl(b))
    torch.testing.assert_close(a, b)


def test_a_group_of_another_lr_is_measured_in_other_units():
    a, b = nn.Parameter(drawn(2)), nn.Parameter(drawn(2, seed=1))
    start = torch.cat([a, b]).detach()

    @rule(per="vector", batched=False)
    def plain(g, theta, f, *, lr=1.0):
        return -lr * g + 0 * f(theta)

    optimizer = ClosureOptimizer([{"params": [a]}, {"params": [b], "lr": 0.01}], plain, lr=0.04)
    g = torch.autograd.grad(bowl(a, b), [a, b])
    optimizer.step(lambda: bowl(a, b))
    torch.testing.assert_close(a.detach(), start[:2] - 0.04 * g[0])
    torch.testing.assert_close(b.detach(), start[2:] - 0.01 * g[1])


def test_newtons_step_does_not_care_for_the_units_of_a_group():
    a, b = nn.Parameter(drawn(2)), nn.Parameter(drawn(2, seed=1))
    optimizer = ClosureOptimizer([{"params": [a]}, {"params": [b], "lr": 0.01}], halfway_newton)
    optimizer.step(lambda: bowl(a, b))
    torch.testing.assert_close(torch.cat([a, b]).detach(), minimum(4))


def test_complex_parameters_are_pairs_of_real_ones():
    z = nn.Parameter(torch.view_as_complex(drawn(3, 2)))
    optimizer = ClosureOptimizer([z], halfway_newton)
    optimizer.step(lambda: bowl(torch.view_as_real(z)))
    torch.testing.assert_close(torch.view_as_real(z).detach().reshape(-1), minimum(6))


def test_parameters_of_several_dtypes_step_together_in_the_widest():
    a, b = nn.Parameter(drawn(2, dtype=torch.float32)), nn.Parameter(drawn(2, seed=1))
    ClosureOptimizer([a, b], halfway_newton).step(lambda: bowl(a.double(), b))
    assert a.dtype == torch.float32
    torch.testing.assert_close(torch.cat([a.double(), b]).detach(), minimum(4), rtol=1e-6, atol=1e-7)


def test_steps_within_a_step_end_where_the_rule_ends():
    a = nn.Parameter(drawn(4))
    optimizer = ClosureOptimizer([a], halfway_newton, max_iter=50, tolerance_grad=1e-9)
    optimizer.step(lambda: bowl(a))
    assert optimizer.status == Status.CONVERGED and optimizer.state[a]["t"] <= 3


def test_evaluations_are_limited():
    a, calls = nn.Parameter(drawn(4)), []

    def closure():
        calls.append(1)
        return bowl(a)

    optimizer = ClosureOptimizer([a], elsewhere, max_iter=50, max_eval=5, lr=1e-3)
    optimizer.step(closure)
    assert len(calls) <= 6 and optimizer.status == Status.EVALUATIONS


@pytest.mark.parametrize("through", ["deepcopy", "file"])
def test_a_state_dict_goes_on_bit_by_bit(through):
    a, b = nn.Parameter(drawn(4)), nn.Parameter(drawn(4))
    whole, half = (ClosureOptimizer([p], halfway_newton, lr=0.5) for p in (a, b))
    for _ in range(6):
        whole.step(lambda: bowl(a))
    for _ in range(3):
        half.step(lambda: bowl(b))
    saved = copy.deepcopy(half.state_dict())
    if through == "file":
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file)
    rest = ClosureOptimizer([b], halfway_newton, lr=0.1)
    rest.load_state_dict(saved)
    for _ in range(3):
        rest.step(lambda: bowl(b))
    assert torch.equal(a, b) and rest.param_groups[0]["lr"] == 0.5


def test_float32_and_bfloat16_parameters_keep_what_is_remembered_in_float32():
    p = nn.Parameter(drawn(4, dtype=torch.bfloat16))
    optimizer = ClosureOptimizer([p], halfway_newton)
    optimizer.step(lambda: bowl(p.float()))
    again = ClosureOptimizer([p], halfway_newton)
    again.load_state_dict(optimizer.state_dict())
    assert again.state[p]["v"].dtype == torch.float32


def test_another_algorithms_state_is_refused_and_nothing_has_changed():
    a = nn.Parameter(drawn(4))
    optimizer, other = ClosureOptimizer([a], halfway_newton), torch.optim.Adam([a])
    a.grad = torch.ones_like(a)
    other.step()
    with pytest.raises(StateError, match="exp_avg"):
        optimizer.load_state_dict(other.state_dict())
    assert not optimizer.state


def test_what_is_wrong_is_said_in_a_line():
    a = nn.Parameter(drawn(4))
    with pytest.raises(KnobError, match="no setting 'momentum'"):
        ClosureOptimizer([a], halfway_newton, momentum=0.9)
    with pytest.raises(AlgorithmError, match="cannot be negative"):
        ClosureOptimizer([a], halfway_newton, lr=-1.0)
    with pytest.raises(AlgorithmError, match=r"call step\(closure\)"):
        ClosureOptimizer([a], halfway_newton).step()
    b = nn.Parameter(drawn(2))
    two = ClosureOptimizer([{"params": [a]}, {"params": [b], "max_iter": 3}], halfway_newton)
    with pytest.raises(AlgorithmError, match="one max_iter for all"):
        two.step(lambda: bowl(a, b))


def test_an_error_in_the_closure_leaves_parameters_and_gradients_as_they_were():
    a, calls = nn.Parameter(drawn(4)), []
    a.grad = torch.full_like(a, 7.0)

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no more")
        return bowl(a)

    with pytest.raises(RuntimeError, match="no more"):
        ClosureOptimizer([a], elsewhere).step(closure)
    assert torch.equal(a, drawn(4))


def test_schedulers_set_its_lr():
    a = nn.Parameter(drawn(4))
    optimizer = ClosureOptimizer([a], elsewhere, lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step(lambda: bowl(a))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_second_derivatives_are_found_on_a_module_with_buffers_frozen():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, y = drawn(16, 3), drawn(16, 1, seed=1)
    found = []

    @rule(per="vector", batched=False)
    def looking(g, theta, f, *, lr=1.0):
        u = torch.ones_like(g)
        found.append((hessian_at(f, theta).rung, float(u @ hessian_at(f, theta)(u))))
        return 0 * g

    ClosureOptimizer(module.parameters(), looking).step(lambda: nn.functional.mse_loss(module(x), y))
    names, params = zip(*module.named_parameters(), strict=True)

    def loss(*values):
        outputs = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))
        return nn.functional.mse_loss(outputs, y)

    dense = torch.autograd.functional.hessian(loss, tuple(p.detach() for p in params))
    assert found[0][0] == "double backward"
    assert found[0][1] == pytest.approx(float(sum(block.sum() for row in dense for block in row)), rel=1e-9)
