"""torch's own learning rate schedulers and GradScaler on top; tensors for numbers."""

import copy
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as S
from torch.optim.swa_utils import SWALR

from thalweg import optim
from thalweg.core.errors import AlgorithmError

SCHEDULERS = {
    "LambdaLR": lambda o: S.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: S.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 5], 0.3),
    "ConstantLR": lambda o: S.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: S.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o: S.SequentialLR(o, [S.ConstantLR(o, 0.1, 3), S.ExponentialLR(o, 0.8)], [3]),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 8),
    "ChainedScheduler": lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.5, 4), S.ExponentialLR(o, 0.9)], o),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.01, 0.1, 3),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.2, 10),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=2, factor=0.5),
    "SWALR": lambda o: SWALR(o, 0.3, 4),
}
OPTIMIZERS = {"Adam": {"lr": 0.05}, "SGD": {"lr": 0.05, "momentum": 0.8}, "RMSprop": {"lr": 0.02, "momentum": 0.1}}


def test_every_scheduler_of_torch_is_here():
    theirs = {name for name, value in vars(S).items() if isinstance(value, type) and issubclass(value, S.LRScheduler)}
    assert theirs - SCHEDULERS.keys() <= {"LRScheduler", "_LRScheduler"}


def under_scheduler(optimizer, construct, walk):
    """Ten steps; it gives lr, and what else the scheduler may set, after each."""
    scheduler, seen = construct(optimizer), []
    for t in range(10):
        walk(optimizer, t + 1, first=t)
        scheduler.step(*[1.0] * isinstance(scheduler, S.ReduceLROnPlateau))
        group = optimizer.param_groups[0]
        seen.append((float(group["lr"]), group.get("momentum"), group.get("betas")))
    return seen


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR uses what torch deprecates
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_under_a_scheduler_lr_and_trajectory_are_torchs(scheduler, name, tensor_lr, parameters, walk, assert_same):
    mine, theirs, kwargs = parameters(), parameters(), OPTIMIZERS[name]
    lr = torch.tensor(kwargs["lr"], dtype=torch.float64) if tensor_lr else kwargs["lr"]
    seen = [
        under_scheduler(cls(params, **{**kwargs, "lr": copy.deepcopy(lr)}), SCHEDULERS[scheduler], walk)
        for cls, params in ((getattr(optim, name), mine), (getattr(torch.optim, name), theirs))
    ]
    assert seen[0] == seen[1]
    assert_same(mine, theirs)


def test_a_scheduler_resumes_with_the_optimizer(parameters, walk):
    whole, params = parameters(), parameters()
    under_scheduler(optim.Adam(whole), SCHEDULERS["CosineAnnealingLR"], walk)
    optimizer = optim.Adam(params)
    scheduler = SCHEDULERS["CosineAnnealingLR"](optimizer)
    for t in range(4):
        walk(optimizer, t + 1, first=t)
        scheduler.step()
    resumed = optim.Adam(params)
    again = SCHEDULERS["CosineAnnealingLR"](resumed)
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    for t in range(4, 10):
        walk(resumed, t + 1, first=t)
        again.step()
    assert all(map(torch.equal, params, whole))


def test_a_scheduler_sees_whether_the_optimizer_stepped_first(parameters):
    scheduler = S.StepLR(optim.Adam(parameters()), 1)
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


# Tensors for numbers


def test_a_tensor_for_lr_is_read_at_each_step(parameters, walk):
    mine, other = parameters(), parameters()
    lr = torch.tensor(0.1, dtype=torch.float64)
    optimizer, plain = optim.SGD(mine, lr=lr), optim.SGD(other, lr=0.1)
    for t in range(4):
        walk(optimizer, t + 1, first=t)
        walk(plain, t + 1, first=t)
        lr.mul_(0.5)
        plain.param_groups[0]["lr"] *= 0.5
    assert all(map(torch.equal, mine, other))


def test_tensors_for_betas_are_numbers(parameters, walk):
    mine, other = parameters(), parameters()
    betas = tuple(torch.tensor(beta, dtype=torch.float64) for beta in (0.8, 0.95))
    walk(optim.AdamW(mine, betas=betas), 5)
    walk(optim.AdamW(other, betas=(0.8, 0.95)), 5)
    assert all(map(torch.equal, mine, other))


def test_a_tensor_of_several_numbers_set_later_is_refused(parameters, walk):
    optimizer = optim.Adam(parameters())
    optimizer.param_groups[0]["lr"] = torch.tensor([0.1, 0.2])
    with pytest.raises(AlgorithmError, match=r"lr is a tensor of shape \(2,\): an optimizer takes one number"):
        walk(optimizer, 1)


# GradScaler


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop"])
@pytest.mark.parametrize("fused", [None, True])
def test_gradients_are_unscaled_and_steps_with_infinite_ones_skipped(name, fused, drawn, assert_same):
    kwargs = {"fused": True} if fused and name != "RMSprop" else {}
    ends, scales = [], []
    for cls, its in ((getattr(optim, name), kwargs), (getattr(torch.optim, name), {})):
        p = torch.nn.Parameter(drawn(4, dtype=torch.float32))
        optimizer, scaler = cls([p], lr=0.05, **its), torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        for t in range(10):
            optimizer.zero_grad()
            factor = float("inf") if t in (2, 6) else 1.0
            before = p.detach().clone()
            scaler.scale((p * drawn(4, seed=t, dtype=torch.float32)).square().sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            assert torch.equal(p, before) == (t in (2, 6))
        ends.append(p.detach())
    assert scales[:10] == scales[10:]
    assert_same(ends[:1], ends[1:], 1e-6)


def test_no_warning_is_left_over():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=torch.tensor(0.1)))
