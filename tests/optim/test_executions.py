"""Which execution runs can be said; flattened, on several threads, it is the same numbers."""

import copy

import pytest
import torch

from thalweg import adam, decayed, optim, penalised, rule
from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import clock, zeros


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_rule_of_ones_own_is_not_taken_for_torchs_by_its_name(parameters):
    def step(g, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        return -lr * g, m, v, t + 1

    step.__name__ = "adam"
    for own in (rule(step), decayed(rule(step)), penalised(rule(step))):
        optimizer = optim.Optimizer(parameters(), own, execution="fused")
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        with pytest.raises(AlgorithmError, match=r"torch has no fused kernel for .*adam"):
            optimizer.step()


def test_an_unknown_execution_is_refused(parameters):
    with pytest.raises(AlgorithmError, match="execution is one of kernel, fused, compile, eager or None, not"):
        optim.Adam(parameters(), execution="foreach")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda ps: optim.Adam([p.half() for p in ps], execution="kernel"), "float32 or float64 on the CPU, not"),
        (lambda ps: optim.Adam([ps[0][:, ::2]], execution="kernel"), r"without gaps, not \(3, 2\) with \(4, 2\)"),
        (lambda ps: optim.Muon(ps[:1], execution="kernel"), "not elementwise: it looks at a whole tensor"),
        (lambda ps: optim.Prodigy(ps, execution="kernel"), "not elementwise: it looks at a whole vector"),
        (lambda ps: optim.Lion(ps, execution="fused"), "torch has no fused kernel for .*lion.*: it has one for adam"),
        (lambda ps: optim.Adam([p.half() for p in ps], execution="fused"), "in half precision"),
        (lambda ps: optim.Adam(ps, execution="kernel", capturable=True), "no tensors for numbers"),
    ],
)
def test_an_execution_that_cannot_be_says_why(make, match, drawn):
    params = [drawn(3, 4), drawn(5)]
    optimizer = make(params)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    before = copy.deepcopy(optimizer.param_groups)
    with pytest.raises(AlgorithmError, match=match):
        optimizer.step()
    assert str(optimizer.param_groups) == str(before) and not optimizer.state


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Adam", {"weight_decay": 0.1}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {}),
        ("AdamW", {"amsgrad": True}),
        ("SGD", {"momentum": 0.9, "lr": 0.05}),
        ("SGD", {"momentum": 0.9, "lr": 0.05, "nesterov": True, "weight_decay": 0.1}),
        ("Adagrad", {"lr_decay": 0.1}),
        ("Adagrad", {"weight_decay": 0.1}),
    ],
)
def test_torchs_fused_kernels_are_the_rules_too(name, kwargs, parameters, walk, assert_same):
    mine, theirs = parameters(), parameters()
    walk(getattr(optim, name)(mine, **kwargs, execution="fused"), 10)
    walk(getattr(torch.optim, name)(theirs, **kwargs, fused=True), 10)
    assert_same(mine, theirs)


# Flattened


def network(dtype=torch.float64):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Linear(4, 1, bias=False)]
    return torch.nn.Sequential(*layers).to(dtype)


def trained(model, optimizer, steps, zero_grad, first=0):
    x = torch.randn(8, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(first, steps):
        zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


FLAT = ["Adam", "SGD", "RMSprop", "ASGD", "Lion", "AdamAtan2", "Adafactor", "MuonAdamW", "LAMB", "Prodigy"]


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("by", ["optimizer", "model"])
def test_flattened_it_is_the_same_bit_for_bit(name, by):
    models = network(), network()
    for model, flatten in zip(models, (False, True), strict=True):
        optimizer = getattr(optim, name)(model.parameters(), lr=0.01, flatten=flatten)
        trained(model, optimizer, 6, optimizer.zero_grad if by == "optimizer" else model.zero_grad)
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_flattened_parameters_gradients_and_memory_lie_in_one_vector_each():
    model = network()
    optimizer = optim.Adam(model.parameters(), flatten=True)
    trained(model, optimizer, 2, optimizer.zero_grad)
    params = list(model.parameters())
    for tensors in (params, [p.grad for p in params], [optimizer.state[p]["exp_avg"] for p in params]):
        assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    optimizer.zero_grad()
    assert all(p.grad is not None and not p.grad.any() for p in params)


def test_flattened_it_takes_a_checkpoint_and_gives_one():
    whole, model = network(), network()
    plain = optim.AdamW(whole.parameters())
    trained(whole, plain, 6, plain.zero_grad)
    first = optim.AdamW(model.parameters())
    trained(model, first, 2, first.zero_grad)
    flat = optim.AdamW(model.parameters(), flatten=True)
    flat.load_state_dict(first.state_dict())
    trained(model, flat, 4, flat.zero_grad, first=2)
    last = torch.optim.AdamW(model.parameters())
    last.load_state_dict(flat.state_dict())
    trained(model, last, 6, last.zero_grad, first=4)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_flattened_groups_of_several_dtypes_have_a_vector_for_each(drawn):
    params = [torch.nn.Parameter(drawn(4).to(dtype)) for dtype in (torch.float32, torch.float64, torch.float32)]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    for optimizer in (optim.Adam(params, flatten=True), optim.Adam(others)):
        for t in range(4):
            optimizer.zero_grad()
            sum((p.double() * drawn(4, seed=t)).exp().sum() for p in optimizer.param_groups[0]["params"]).backward()
            optimizer.step()
    assert all(map(torch.equal, params, others))


# Threads


@pytest.mark.parametrize("name", ["AdamW", "NAdam"])
@pytest.mark.parametrize("flatten", [False, True])
def test_two_threads_equal_one_bit_for_bit(name, flatten, threads, drawn):
    shapes, ends = [(1_200_000,), (3,), (700, 900), (5, 5)], []
    start = [drawn(*shape, seed=k, dtype=torch.float32) for k, shape in enumerate(shapes)]
    gradients = [drawn(*shape, seed=9 + k, dtype=torch.float32) for k, shape in enumerate(shapes)]
    for n in (1, 2):
        threads(n)
        params = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = getattr(optim, name)(params, flatten=flatten)
        for _ in range(3):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g
            optimizer.step()
        ends.append(params)
    assert all(map(torch.equal, *ends))


def test_threads_may_become_more_and_fewer_between_steps(threads, drawn):
    ends = []
    for counts in ((1, 1, 1, 1), (1, 2, 3, 1)):
        p = torch.nn.Parameter(drawn(1_100_000, dtype=torch.float32))
        optimizer = optim.Optimizer([p], adam)
        for n in counts:
            threads(n)
            p.grad = drawn(1_100_000, seed=1, dtype=torch.float32)
            optimizer.step()
        ends.append(p)
    assert torch.equal(*ends)
