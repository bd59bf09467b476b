"""The classes that torch does not have: each trains, resumes, and its kernel is its rule."""

import io

import pytest
import torch

from thalweg import adam, momentum, optim

SETTINGS = {
    "LARS": {"lr": 5.0},
    "ScheduleFreeSGD": {"lr": 0.5},
    "Prodigy": {"lr": 1.0, "d0": 1e-3, "betas": (0.9, 0.9)},
    "DAdaptAdam": {"lr": 1.0, "d0": 1e-3, "betas": (0.9, 0.9)},
    "DoG": {"lr": 1.0, "reps_rel": 1e-2},
    "Shampoo": {"every": 2},
    "SOAP": {"every": 2},
    "Sophia": {"every": 2},
}


def task(modern, dtype=torch.float32, **more):
    """A small network on invented data: its model, optimizer and closure."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).to(dtype)
    x = torch.randn(64, 6, dtype=dtype)
    y = torch.sin(x.sum(1, keepdim=True))
    optimizer = getattr(optim, modern)(model.parameters(), **{"lr": 1e-2, **SETTINGS.get(modern, {})}, **more)
    calls_backward = modern != "Sophia"  # its Hessian needs the graph

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        if calls_backward:
            loss.backward()
        return loss

    return model, optimizer, closure


def take(optimizer, closure, steps):
    for _ in range(steps):
        optimizer.step(closure)
    return closure().item()


def saved_and_loaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_those_that_users_ask_for_are_there():
    """SAM, which wraps a rule, has a test of its own below."""
    theirs = {name for name in optim.__all__ if not hasattr(torch.optim, name)} - {"SAM"}
    asked = "ADOPT AMSGrad AdEMAMix AdaBelief AdamAtan2 Adan DAdaptAdam DoG LAMB LARS Lion MuonAdamW PSGDKron Prodigy"
    assert theirs >= {*asked.split(), "ScheduleFreeAdamW", "ScheduleFreeSGD", "Shampoo", "SOAP", "Sophia"}


def test_thirty_steps_lower_the_loss(modern):
    _, optimizer, closure = task(modern)
    first = closure().item()
    assert take(optimizer, closure, 30) < 0.9 * first


def test_saved_loaded_and_gone_on_it_is_the_uninterrupted_run(modern):
    whole, optimizer, closure = task(modern)
    take(optimizer, closure, 11)
    model, first, its = task(modern)
    take(first, its, 5)
    resumed, second, closure = task(modern)
    resumed.load_state_dict(model.state_dict())
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    take(second, closure, 6)
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))


@pytest.mark.of(lambda modern: getattr(optim, modern)._declared.per == "element")
def test_its_kernel_is_its_rule(modern):
    model, optimizer, closure = task(modern, torch.float64, execution="eager")
    other, kernels, its = task(modern, torch.float64, execution="kernel")
    take(optimizer, closure, 10)
    take(kernels, its, 10)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.of(lambda modern: getattr(optim, modern)._declared.per == "element")
def test_groups_with_settings_of_their_own_equal_several_optimizers(modern, parameters, walk):
    together, apart = parameters(), parameters()
    settings = [{}, {"lr": 0.037}, {"weight_decay": 0.3, "maximize": True}]
    groups = [{"params": [p], **setting} for p, setting in zip(together, settings, strict=True)]
    cls = getattr(optim, modern)
    optimizer = cls(groups)
    others = [cls([p], **setting) for p, setting in zip(apart, settings, strict=True)]
    for t in range(5):
        walk(optimizer, t + 1, first=t)
        for p, q, other in zip(together, apart, others, strict=True):
            q.grad = p.grad
            other.step()
    assert all(map(torch.equal, together, apart))


@pytest.mark.parametrize("rule", [momentum, adam], ids=lambda rule: rule.name)
def test_sam_lowers_the_loss_and_resumes(rule):
    def made():
        model, _, _ = task("Lion")
        optimizer = optim.SAM(model.parameters(), rule, lr=0.02, rho=0.05)
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
        y = torch.sin(x.sum(1, keepdim=True))

        def closure():
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        return model, optimizer, closure

    whole, optimizer, closure = made()
    first = closure().item()
    assert take(optimizer, closure, 30) < 0.9 * first
    model, before, its = made()
    take(before, its, 12)
    resumed, after, closure = made()
    resumed.load_state_dict(model.state_dict())
    after.load_state_dict(saved_and_loaded(before.state_dict()))
    take(after, closure, 18)
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
