import random

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.core.errors import DiagnosisError, NetworkError
from thalweg.core.undisturbed import looked_into, undisturbed


class Counting(nn.Module):
    """Keeps what no other does: a number, a list, a tensor that is no buffer, and a buffer that is replaced."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(3, 3)
        self.calls, self.seen, self.last = 0, [], torch.zeros(3)
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.last.add_(x.detach().mean(0))
        self.total = self.total + x.detach().sum()
        return self.inside(x)


def model():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), Counting(), nn.Linear(3, 1))
    module[2].eval()
    module[4].weight.requires_grad_(False)
    module[0].weight.grad = torch.full((3, 3), 7.0)
    module[1].register_forward_hook(lambda *_: None)
    return module


def state(module, optimizer=None):
    """Everything that may have changed, as bytes and identities."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), "last": module[3].last}
    found = {
        name: (
            id(t),
            t.data_ptr(),
            t.detach().numpy().tobytes(),
            t.requires_grad,
            id(t.grad),
            len(t._backward_hooks or ()),
        )
        for name, t in tensors.items()
    }
    found["grad"] = module[0].weight.grad.numpy().tobytes()
    found["flags"] = [part.training for part in module.modules()]
    found["hooks"] = [(list(p._forward_hooks), list(p._backward_hooks), list(p._forward_pre_hooks)) for p in module]
    found["calls"] = (module[3].calls, list(module[3].seen))
    found["random"] = (torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes())
    if optimizer is not None:
        settings = optimizer.param_groups[0]
        found["settings"] = {name: value for name, value in settings.items() if name != "params"}
        memory = optimizer.state_dict()["state"]
        found["memory"] = {
            k: {n: torch.as_tensor(v).numpy().tobytes() for n, v in s.items()} for k, s in memory.items()
        }
    return found


def disturb(module):
    module.train()
    for part in module.modules():
        part.register_forward_hook(lambda *_: None)
        part.register_full_backward_hook(lambda *_: None)
    module[4].weight.requires_grad_(True)
    module[0].weight.register_hook(lambda g: 2 * g)
    module[0].bias.register_post_accumulate_grad_hook(lambda p: None)
    module(torch.randn(8, 3, requires_grad=True)).sum().backward()
    random.random()
    np.random.rand()
    module[0].weight.requires_grad_(False)


def disturb_and_fail(module):
    disturb(module)
    module(torch.randn(8, 4))


def test_everything_about_a_module_is_as_it_was():
    module = model()
    before = state(module)
    with undisturbed(module):
        disturb(module)
        assert state(module) != before
    assert state(module) == before


def test_an_exception_leaves_it_as_it_was_too():
    module = model()
    before = state(module)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), undisturbed(module):
        disturb_and_fail(module)
    assert state(module) == before


def test_a_hook_that_was_there_is_still_called():
    module, calls = nn.Linear(1, 1), []
    module.register_forward_hook(lambda *_: calls.append("before"))
    with undisturbed(module):
        module.register_forward_hook(lambda *_: calls.append("inside"))
        module(torch.ones(1, 1))
    module(torch.ones(1, 1))
    assert calls == ["before", "inside", "before"]


def test_parameters_are_put_back_where_that_is_asked_for():
    module = model()
    before = state(module)
    with undisturbed(module, parameters=True), torch.no_grad():
        module[0].weight.add_(1.0)
        module[1].weight.data = torch.full((3,), 2.0)
    assert state(module) == before


@pytest.mark.parametrize("make", [torch.optim.Adam, tw.optim.Adam, tw.optim.SGD, torch.optim.SGD])
@pytest.mark.parametrize("taken", [0, 2])
def test_steps_of_an_optimizer_are_undone(make, taken):
    module = model()
    optimizer = make(module.parameters(), lr=0.1)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            module(torch.ones(8, 3)).sum().backward()
            optimizer.step()

    train(taken)
    module[0].weight.grad = torch.full((3, 3), 7.0)
    before = state(module, optimizer)
    with undisturbed(module, optimizer, parameters=True):
        train(3)
        optimizer.param_groups[0]["lr"] = 7.0
        assert state(module, optimizer) != before
    assert state(module, optimizer) == before


def test_a_graph_of_the_caller_can_still_be_gone_back_through():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    loss = module(torch.randn(8, 3)).sum()
    with undisturbed(module):
        module.train()(torch.randn(8, 3))
    loss.backward()


def test_parameters_are_not_copied_unless_asked_for(monkeypatch):
    module, clone, copied = nn.Linear(4, 4), torch.Tensor.clone, []
    monkeypatch.setattr(torch.Tensor, "clone", lambda t, **how: copied.append(t.shape) or clone(t, **how))
    with undisturbed(module):
        pass
    assert not copied
    with undisturbed(module, parameters=True):
        pass
    assert copied == [(4, 4), (4,)]


def test_hooks_see_inside_a_compiled_part():
    inside, calls = nn.Linear(2, 2), []
    module = nn.Sequential(torch.compile(inside, backend="eager"))
    module(torch.ones(1, 2))  # compiled without hooks
    with undisturbed(module):
        inside.register_forward_hook(lambda *_: calls.append(1))
        module(torch.ones(1, 2))
    assert calls == [1]


def test_the_plain_module_inside_is_found():
    inside = nn.Linear(2, 1)
    assert looked_into(inside) is inside
    assert looked_into(torch.compile(inside, backend="eager")) is inside
    assert looked_into(torch.compile(nn.DataParallel(inside), backend="eager")) is inside


def test_the_plain_module_in_one_that_runs_in_parallel_is_found(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
    try:
        inside = nn.Linear(2, 1)
        assert looked_into(nn.parallel.DistributedDataParallel(inside)) is inside
    finally:
        torch.distributed.destroy_process_group()


def broken(value):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        module[1].weight[0, 0] = value
    return module


class Quantised(nn.Linear):
    __module__ = "torch.ao.nn.quantized.modules.linear"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (lambda: 3, NetworkError, r"a int was given: a torch.nn.Module was expected"),
        (lambda: nn.ReLU(), NetworkError, "ReLU has no floating-point parameters"),
        (lambda: nn.LazyLinear(2), NetworkError, "weight has no shape yet"),
        (lambda: nn.Linear(2, 2, device="meta"), DiagnosisError, "weight is on the meta device"),
        (lambda: broken(torch.nan), DiagnosisError, "1.weight has 1 of 4 values that are NaN or infinite"),
        (lambda: broken(-torch.inf), DiagnosisError, "1.weight has 1 of 4 values"),
        (lambda: nn.Sequential(nn.Linear(2, 2), Quantised(2, 2)), DiagnosisError, "1 is quantised"),
    ],
)
def test_what_cannot_be_measured_gets_one_clear_line(given, error, said):
    with pytest.raises(error, match=said) as caught:
        looked_into(given())
    assert "\n" not in str(caught.value)


def test_a_sum_that_overflows_is_no_bad_value():
    module = nn.Linear(4, 4)
    nn.init.constant_(module.weight, 3e38)
    assert looked_into(module) is module
