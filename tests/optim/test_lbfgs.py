"""optim.LBFGS: torch's arguments, and what torch's class cannot."""

import copy
import pickle

import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

from thalweg import optim
from thalweg.core.errors import AlgorithmError
from thalweg.core.status import Status

DOUBLE = torch.float64
CONFIGS = next(info for info in optim_db if info.name == "LBFGS").optim_inputs_func(device="cpu", dtype=DOUBLE)
WOLFE = {"line_search_fn": "strong_wolfe"}


def start(dtype=DOUBLE):
    return torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=dtype))


def rosenbrock(x, factor=1.0):
    return factor * ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)


def minimised(x, f, steps=20, cls=optim.LBFGS, **settings):
    optimizer = cls([x], **settings)

    def closure():
        optimizer.zero_grad()
        loss = f(x)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return optimizer


def test_torch_has_five_configurations():
    assert len(CONFIGS) == 5


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.desc or "default")
def test_it_takes_torchs_configurations_and_comes_as_low_as_torchs(config):
    weights = torch.tensor([1.0, 3.0, 10.0], dtype=DOUBLE)
    mine, theirs = (torch.nn.Parameter(torch.tensor([3.0, -2.0, 1.0], dtype=DOUBLE)) for _ in range(2))

    def f(x):
        return (weights * (x - 1) ** 2).sum()

    minimised(mine, f, steps=100, **config.kwargs)
    minimised(theirs, f, steps=100, cls=torch.optim.LBFGS, **config.kwargs)
    assert f(mine) <= 1.1 * f(theirs) + 1e-6


def test_it_has_torchs_arguments_and_defaults():
    names = ("lr", "max_iter", "max_eval", "tolerance_grad", "tolerance_change", "history_size")
    mine, theirs = optim.LBFGS([start()]).defaults, torch.optim.LBFGS([start()]).defaults
    assert {name: mine[name] for name in names} == {name: theirs[name] for name in names}


@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e-6, 1.0, 1e6, 1e12])
def test_a_loss_of_any_scale_is_minimised(factor):
    x = start()
    minimised(x, lambda x: rosenbrock(x, factor), **WOLFE)
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=DOUBLE), rtol=1e-4, atol=1e-4)


def test_torchs_does_not_move_where_the_loss_is_small():
    x = start()
    minimised(x, lambda x: rosenbrock(x, 1e-9), cls=torch.optim.LBFGS, **WOLFE)
    assert torch.equal(x, start())


def barrier(x):
    return -torch.log(1 - x.square().sum()) - torch.log(x[0] + 0.5) - 3 * x[1]


def test_a_barrier_that_is_no_number_beyond_is_met_and_not_crossed():
    x = torch.nn.Parameter(torch.tensor([0.4, -0.9], dtype=DOUBLE))
    minimised(x, barrier, **WOLFE)
    g = torch.autograd.grad(barrier(x), x)[0]
    assert g.abs().max() < 1e-5


def test_float32_is_enough_for_rosenbrock():
    x = start(torch.float32)
    minimised(x, rosenbrock, steps=40, **WOLFE)
    torch.testing.assert_close(x.detach(), torch.ones(2), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_evaluations_in_a_step_are_no_more_than_allowed(most):
    x, calls = start(), []

    def f(x):
        calls.append(1)
        return rosenbrock(x)

    before = rosenbrock(x).item()
    optimizer = minimised(x, f, steps=1, max_eval=most, **WOLFE)
    assert len(calls) <= most and optimizer.status == Status.EVALUATIONS
    assert rosenbrock(x).item() <= before


def test_several_groups_are_one_vector():
    a, b, c = torch.nn.Parameter(start()[:1].detach()), torch.nn.Parameter(start()[1:].detach()), start()
    grouped = optim.LBFGS([{"params": [a]}, {"params": [b]}], **WOLFE)
    alone = optim.LBFGS([c], **WOLFE)
    for _ in range(3):
        grouped.step(lambda: rosenbrock(torch.cat([a, b])))
        alone.step(lambda: rosenbrock(c))
    assert torch.equal(torch.cat([a, b]), c)


def test_maximize_finds_a_maximum():
    x = start()
    optimizer = optim.LBFGS([x], maximize=True, **WOLFE)
    for _ in range(20):
        optimizer.step(lambda: -rosenbrock(x))
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=DOUBLE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("through", ["state_dict", "deepcopy", "pickle"])
def test_it_is_saved_and_goes_on_bit_by_bit(through):
    x = start()
    optimizer = optim.LBFGS([x], max_iter=3, **WOLFE)
    optimizer.step(lambda: rosenbrock(x))
    if through == "state_dict":
        y = torch.nn.Parameter(x.detach().clone())
        other = optim.LBFGS([y], **WOLFE)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        other = copy.deepcopy(optimizer) if through == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        y = other.param_groups[0]["params"][0]
    optimizer.step(lambda: rosenbrock(x))
    other.step(lambda: rosenbrock(y))
    assert torch.equal(x, y) and not torch.equal(x, start())


def test_how_it_ended_is_said():
    x = start()
    assert minimised(x, rosenbrock, steps=20, **WOLFE).status == Status.CONVERGED
    assert minimised(start(), lambda x: -x.square().sum(), steps=5, max_eval=999, **WOLFE).status == Status.UNBOUNDED


def test_an_unknown_line_search_is_refused_with_those_that_there_are():
    with pytest.raises(AlgorithmError, match="strong_wolfe"):
        optim.LBFGS([start()], line_search_fn="wolfe")
