"""What the tests of optim share: torch's acceptance configurations, deterministic parameters, gradients and walks.

A test that asks for `info` runs once for each class of torch, one that asks for `info` and `config` once for each of
its configurations, one that asks for `modern` once for each class that torch does not have.
"""

import copy
import warnings

import pytest
import torch

from thalweg import optim
from thalweg.execution.closure_optim import ClosureOptimizer

with warnings.catch_warnings():  # it says at import that hypothesis is not installed
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import optim_db

COUNTED = 91  # configurations for the CPU in torch 2.13
APART = ("LBFGS",)  # it evaluates the closure itself: test_lbfgs.py has its configurations
MODERN = [
    name
    for name in optim.__all__
    if name not in ("Optimizer", "SAM")
    and not hasattr(torch.optim, name)
    and not issubclass(getattr(optim, name), ClosureOptimizer)
]
SHAPES = {"Muon": [(3, 4), (5, 2)], "SparseAdam": [(3, 4), (5,)]}


def ours(info):
    """torch's description of an optimizer, pointed at our class."""
    mine = copy.copy(info)
    mine.optim_cls = getattr(optim, info.name)
    return mine


def configs(info):
    return info.optim_inputs_func(device="cpu", dtype=torch.float64)


INFOS = [ours(info) for info in optim_db if info.name not in APART]


def pytest_configure(config):
    config.addinivalue_line("markers", "of(condition): for those infos, and configs, of which it holds")


def pytest_generate_tests(metafunc):
    names = set(metafunc.fixturenames)
    of = [mark.args[0] for mark in metafunc.definition.iter_markers("of")]
    if {"info", "config"} <= names:
        cases = [(i, c) for i in INFOS for c in configs(i) if all(holds(i, c.kwargs) for holds in of)]
        ids = [f"{i.name}-{c.desc.replace(' ', '_')}" for i, c in cases]
        metafunc.parametrize(("info", "config"), cases, ids=ids)
    elif "info" in names:
        cases = [i for i in INFOS if all(holds(i) for holds in of)]
        metafunc.parametrize("info", cases, ids=[i.name for i in cases])
    if "modern" in names:
        metafunc.parametrize("modern", [name for name in MODERN if all(holds(name) for holds in of)])


def pytest_terminal_summary(terminalreporter):
    found = sum(len(configs(info)) for info in optim_db)
    if found > COUNTED:
        more = f"{found - COUNTED} acceptance configurations more than the {COUNTED} that were counted"
        terminalreporter.write_line(f"torch {torch.__version__} has {more}: they were run too")


@pytest.fixture
def drawn():
    """Standard normal numbers of a shape and a seed."""

    def draw(*shape, seed=0, dtype=torch.float64):
        return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))

    return draw


@pytest.fixture
def parameters(drawn):
    """Fresh parameters for a class, the same each time."""

    def make(name="", dtype=torch.float64):
        shapes = SHAPES.get(name, [(3, 4), (5,), ()])
        return [torch.nn.Parameter(drawn(*shape, seed=k).to(dtype)) for k, shape in enumerate(shapes)]

    return make


@pytest.fixture
def walk(drawn):
    """Takes steps from `first` up to `last`, with gradients that depend on the step, the parameter and its value."""

    def steps(optimizer, last, first=0):
        for t in range(first, last):
            seen = [p for group in optimizer.param_groups for p in group["params"]]
            for k, p in enumerate(seen):
                g = (drawn(*p.shape, seed=100 * t + k) + p.detach()).to(p.dtype)
                p.grad = g.to_sparse(1) if type(optimizer).__name__ == "SparseAdam" else g
            optimizer.step()

    return steps


@pytest.fixture
def assert_same():
    """Tensors are equal to within `tolerance` of the largest number there."""

    def compare(mine, theirs, tolerance=1e-10):
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert a.isfinite().all()
            assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())

    return compare


@pytest.fixture
def infos():
    """torch's descriptions of its optimizers, pointed at our classes."""
    return INFOS
