"""Sparse gradients: Rosenbrock's function by one coordinate at a time, as torch's own test has it."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thalweg import optim


@pytest.fixture(autouse=True)
def checked():
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def takes_sparse(info):
    return info.supports_sparse or info.only_supports_sparse_grads


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def coordinate(p, t, sparse):
    """The gradient of one coordinate; the sparse one is not coalesced: it has the index twice."""
    x, y = p.detach()
    at = t % 2
    g = (-400 * x * (y - x**2) - 2 * (1 - x)) if at == 0 else 200 * (y - x**2)
    if sparse:
        index, values = torch.tensor([[at, at]]), torch.stack([g / 4, g - g / 4])
        return torch.sparse_coo_tensor(index, values, (2,))
    return torch.stack([g, torch.zeros_like(g)][:: 1 - 2 * at])


def descend(cls, kwargs, constructors, sparse, steps, starts=((1.5, 1.5),)):
    """The path `(steps, parameters, 2)`."""
    params = [torch.nn.Parameter(torch.tensor(start, dtype=torch.float64)) for start in starts]
    optimizer = cls(params, **copy.deepcopy(kwargs))
    schedulers, path = [construct(optimizer) for construct in constructors], []
    for t in range(steps):
        for p in params:
            p.grad = coordinate(p, t, sparse)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*[rosenbrock(*params[0].detach())] * isinstance(scheduler, ReduceLROnPlateau))
        path.append(torch.stack([p.detach().clone() for p in params]))
    return torch.stack(path)


def settings(info, config):
    """As in torch's test: what is tuned for sparse gradients stands before the configuration's."""
    return {**config.kwargs, **info.metadata_for_sparse[0]}


@pytest.mark.of(lambda info, kwargs: info.supports_sparse)
@pytest.mark.parametrize("scheduled", [False, True])
def test_sparse_gradients_equal_dense_ones(info, config, scheduled):
    constructors = info.metadata_for_sparse[1] if scheduled else []
    kwargs = settings(info, config)
    sparse, dense = (descend(info.optim_cls, kwargs, constructors, sparse, 150) for sparse in (True, False))
    torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.of(lambda info: takes_sparse(info))
def test_one_coordinate_at_a_time_ends_nearer_to_the_minimum(info):
    kwargs, constructors = info.metadata_for_sparse
    path = descend(info.optim_cls, kwargs, constructors, True, 1800)
    distances = torch.linalg.vector_norm(path[:, 0] - 1, dim=1)
    assert distances[-1] < 0.5**0.5  # that of the start


@pytest.mark.of(lambda info: not takes_sparse(info))
def test_what_takes_no_sparse_gradients_says_so_and_what_to_take(info):
    p = torch.nn.Parameter(torch.ones(2, 3))
    p.grad = torch.ones(2, 3).to_sparse()
    optimizer = info.optim_cls([p])
    with pytest.raises(RuntimeError, match=f"{info.name} does not support sparse gradients.*SparseAdam"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2, 3)) and not optimizer.state


@pytest.mark.of(lambda info, kwargs: takes_sparse(info))
def test_sparse_gradients_have_torchs_trajectory(info, config):
    kwargs, torchs = settings(info, config), getattr(torch.optim, info.name)
    starts = ((1.5, 1.5), (1.2, 1.4))
    mine, theirs = (descend(cls, kwargs, [], True, 150, starts) for cls in (info.optim_cls, torchs))
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kwargs", [{"momentum": 0.9}, {"weight_decay": 0.1}], ids=str)
def test_where_a_zero_gradient_changes_something_too_sparse_gradients_equal_dense_ones(kwargs):
    kwargs = {"lr": 1e-4, **kwargs}
    sparse, dense = (descend(optim.SGD, kwargs, [], sparse, 50) for sparse in (True, False))
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)
