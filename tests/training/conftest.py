"""Small problems with known answers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import thalweg as tw

torch.set_num_threads(1)  # these models are small, and some tests fork


def line(n: int = 60) -> tw.Problem:
    """y = 3x: every third example validates, and every third tests."""
    x = torch.linspace(-1, 1, n)[:, None]
    parts = [(x[i::3], 3 * x[i::3]) for i in range(3)]
    return tw.Problem(lambda: nn.Linear(1, 1), *parts, loss=nn.functional.mse_loss, name="line", batch_size=8)


def circles(n: int = 90, noise: float = 0.6) -> tw.Problem:
    """Two classes that overlap, a model that can learn them by heart, dropout and batch normalisation on the way."""
    random = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randn(n, 2, generator=random) * noise + y[:, None]
    parts = [(x[i::3], y[i::3]) for i in range(3)]

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    return tw.Problem(model, *parts, loss=nn.functional.cross_entropy, metric=tw.accuracy, name="circles", batch_size=8)


@pytest.fixture
def linear() -> tw.Problem:
    return line()


@pytest.fixture
def noisy() -> tw.Problem:
    return circles()


@pytest.fixture
def overfitted() -> tw.Problem:
    """The same, with the parts exchanged: its training part is learnt better than its validation part."""
    problem = circles()
    return replace(problem, train=problem.valid, valid=problem.train)
