"""Steps are differentiated through, and run for a population: no optimizer of torch's can."""

import inspect

import pytest
import torch

from thalweg import optim
from thalweg.algorithms import ALGORITHMS

ELEMENTWISE = [name for name, entry in ALGORITHMS.items() if entry.rule.per == "element"]
WHOLE = [name for name, entry in ALGORITHMS.items() if entry.rule.per != "element" and "f" not in entry.rule.sees]
DIFFERENTIABLE = [
    name
    for name in optim.__all__
    if hasattr(torch.optim, name)
    and "differentiable" in inspect.signature(getattr(optim, name)).parameters
    and name != "Optimizer"
]
START = torch.tensor([0.9, -0.4, 1.2], dtype=torch.float64)
SLOPE = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


def loss(theta):
    return (0.3 * theta.exp() + SLOPE * theta).sum() + theta.prod() + (theta**2).sum() / 2


def unrolled(rule, theta, lr, steps):
    """The parameters after some steps of a rule, with their graph."""
    knobs = {**rule.knobs, "lr": lr}
    memory = rule.start(theta, **knobs)
    for _ in range(steps):
        (g,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta


@pytest.mark.parametrize("steps", [2, 10])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_steps_of_a_rule_are_differentiated_by_lr_and_start(name, steps):
    lr = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    start = START.clone().requires_grad_()
    rule = ALGORITHMS[name].rule
    assert torch.autograd.gradcheck(lambda theta, lr: unrolled(rule, theta, lr, steps), (start, lr))


@pytest.mark.parametrize("steps", [2, 10])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_steps_of_an_optimizer_are_differentiated_by_lr_and_start(name, steps):
    def walked(start, lr):
        p = start.clone()
        optimizer = getattr(optim, name)([p], lr=lr, differentiable=True)
        for _ in range(steps):
            (p.grad,) = torch.autograd.grad(loss(p), p, create_graph=True)
            optimizer.step()
        return p.clone()

    lr = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        assert torch.autograd.gradcheck(walked, (START.clone().requires_grad_(), lr))


@pytest.mark.of(lambda modern: getattr(optim, modern)._declared.per == "element")
def test_steps_of_modern_ones_are_too(modern):
    test_steps_of_an_optimizer_are_differentiated_by_lr_and_start(modern, 3)


def test_lr_descends_its_own_gradient():
    """What it is for: the lr of two steps with momentum is itself learned."""
    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    outer, rule, losses = torch.optim.SGD([lr], lr=1e-3), ALGORITHMS["momentum"].rule, []
    for _ in range(5):
        end = loss(unrolled(rule, START.clone().requires_grad_(), lr, 2))
        outer.zero_grad()
        end.backward()
        outer.step()
        losses.append(end.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.01


def test_without_the_flag_no_graph_is_kept():
    p = torch.nn.Parameter(START.clone())
    optimizer = optim.Adam([p])
    (p.grad,) = torch.autograd.grad(loss(p), p, create_graph=True)
    optimizer.step()
    assert p.is_leaf and not any(value.requires_grad for value in optimizer.state[p].values())


def test_what_looks_at_the_whole_vector_says_that_the_rule_itself_is_differentiated():
    p = START.clone()
    optimizer = optim.Prodigy([p], differentiable=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="looks at the whole vector: differentiate through the rule itself"):
        optimizer.step()


# A population


def walked(rule, gradients, theta, lr):
    knobs = {**rule.knobs, "lr": lr}
    memory = rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g + theta, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta


def close(name):
    """Muon's iteration is in bfloat16, which rounds otherwise in a batch."""
    return {"rtol": 0.01, "atol": 0.01} if "muon" in name else {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("name", WHOLE)
def test_a_population_with_an_lr_each_is_the_loop(name, drawn):
    rule = ALGORITHMS[name].rule
    shape = (3, 4) if rule.per == "tensor" else (12,)
    theta, gradients = drawn(*shape), [drawn(*shape, seed=t) for t in range(1, 5)]
    lrs = torch.tensor([0.001, 0.01, 0.1], dtype=torch.float64)
    together = torch.vmap(lambda lr: walked(rule, gradients, theta, lr))(lrs)
    for lr, member in zip(lrs, together, strict=True):
        torch.testing.assert_close(member, walked(rule, gradients, theta, lr), **close(name))


@pytest.mark.parametrize("name", WHOLE)
def test_a_population_with_a_start_each_is_the_loop(name, drawn):
    rule = ALGORITHMS[name].rule
    shape = (3, 4) if rule.per == "tensor" else (12,)
    starts, gradients = drawn(3, *shape), [drawn(*shape, seed=t) for t in range(1, 5)]
    together = torch.vmap(lambda theta: walked(rule, gradients, theta, 0.01))(starts)
    for theta, member in zip(starts, together, strict=True):
        torch.testing.assert_close(member, walked(rule, gradients, theta, 0.01), **close(name))
