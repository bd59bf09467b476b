"""torch's own acceptance configurations: each goes the right way, and no way at all where nothing pulls."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

VARIANTS = ["contiguous", "strided"]


def task(info, kwargs, variant="contiguous"):
    """torch's: the square of an affine map. Gives the optimizer and a closure."""
    generator = torch.Generator().manual_seed(0)
    if variant == "contiguous":
        weight, bias = torch.randn(10, 5, generator=generator), torch.randn(10, generator=generator)
    else:
        weight, bias = (torch.randn(*shape, 2, generator=generator)[..., 0] for shape in ((10, 5), (10,)))
    weight, bias, x = torch.nn.Parameter(weight), torch.nn.Parameter(bias), torch.randn(5, generator=generator)
    params = [weight] if info.name == "Muon" else [weight, bias]
    optimizer = info.optim_cls(params, **copy.deepcopy(kwargs))

    def closure():
        optimizer.zero_grad()
        y = weight.mv(x) if info.name == "Muon" else weight.mv(x) + bias
        loss = y.pow(2).sum()
        loss.backward()
        if info.only_supports_sparse_grads:
            for p in params:
                p.grad = p.grad.to_sparse()
        return loss

    return optimizer, closure


def descend(optimizer, closure, schedulers, calls_closure):
    """The loss before and after 20 steps."""
    first = closure().item()
    for _ in range(20):
        if calls_closure:
            loss = optimizer.step(closure)
        else:
            loss = closure()
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*[loss.detach()] * isinstance(scheduler, ReduceLROnPlateau))
    return first, closure().item()


def assert_right_direction(first, last, kwargs):
    assert last > first if kwargs.get("maximize") else last < first


def test_no_configuration_is_lost(infos):
    counted = {"Adadelta": 6, "Adafactor": 5, "Adagrad": 7, "Adam": 5, "Adamax": 5, "AdamW": 5, "ASGD": 7, "Muon": 7}
    counted |= {"NAdam": 7, "RAdam": 6, "RMSprop": 8, "Rprop": 5, "SGD": 9, "SparseAdam": 4}
    found = {info.name: len(info.optim_inputs_func(device="cpu", dtype=torch.float64)) for info in infos}
    assert counted.items() - found.items() == {(n, k) for n, k in counted.items() if found.get(n, 0) > k}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("calls_closure", [False, True], ids=["step", "closure"])
def test_twenty_steps_go_the_right_way(info, config, variant, calls_closure):
    optimizer, closure = task(info, config.kwargs, variant)
    assert_right_direction(*descend(optimizer, closure, [], calls_closure), config.kwargs)


def test_twenty_steps_under_schedulers_go_the_right_way(info, config):
    for constructors in info.scheduler_inputs:
        optimizer, closure = task(info, config.kwargs)
        schedulers = [construct(optimizer) for construct in constructors]
        assert_right_direction(*descend(optimizer, closure, schedulers, False), config.kwargs)


@pytest.mark.of(lambda info, kwargs: kwargs.get("weight_decay", 0) == 0)  # or they decay
def test_zero_gradients_change_nothing(info, config):
    kwargs = copy.deepcopy(config.kwargs)
    if info.name in ("AdamW", "Muon"):  # they decay by default: by less than float32 can see here
        kwargs["lr"] = torch.tensor(1e-5) if isinstance(kwargs.get("lr"), torch.Tensor) else 1e-5
    if info.name == "ASGD":  # it pulls to 0 by lambd: torch skips this test for it
        kwargs["lambd"] = 0.0
    p = torch.nn.Parameter(torch.randn(5, 1, generator=torch.Generator().manual_seed(0)))
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    if info.only_supports_sparse_grads:
        none = torch.empty((1, 0), dtype=torch.int64)
        p.grad = torch.sparse_coo_tensor(none, torch.empty((0, 1)), (5, 1), check_invariants=True)
    optimizer = info.optim_cls([p], **kwargs)
    loss = optimizer.step(lambda: torch.tensor([1.0]))
    assert loss == 1
    torch.testing.assert_close(p.detach(), before)


def test_missing_gradients_change_nothing(info, config, parameters):
    params = parameters(info.name)
    before = [p.detach().clone() for p in params]
    optimizer = info.optim_cls(params, **copy.deepcopy(config.kwargs))
    optimizer.step()
    assert all(map(torch.equal, params, before))
    assert not optimizer.state or info.name == "Adagrad"  # which torch starts in the constructor
