from itertools import pairwise

import pytest
import torch
from torch import nn

from thalweg import Batch, Network, descend
from thalweg.core.derivatives import gauss_newton_at, value_and_gradient
from thalweg.core.errors import CurvatureError
from thalweg.core.objective import Evaluations, LeastSquares
from thalweg.core.status import Status
from thalweg.second_order.natural_gradient import natural_gradient, natural_gradient_with, normalised

F = nn.functional
DOUBLE = torch.float64
EXACT = {"damping": 0.0, "omega": 1.0, "rtol": 1e-13, "most": 500.0}


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def classes(*shape, count=3, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


class Reparametrised:
    """A likelihood of classes whose parameters are a function of others."""

    loss = staticmethod(F.cross_entropy)

    def __init__(self, change):
        self.change = change

    def outputs(self, phi):
        w, b = self.change(phi).split([8, 2])
        return F.pad(drawn(12, 4) @ w.view(2, 4).T + b, (0, 1))  # the third logit is zero: no direction is idle

    def loss_of(self, z):
        return F.cross_entropy(z, classes(12))

    def __call__(self, phi):
        return self.loss_of(self.outputs(phi))


def path(f, theta, steps, rule=natural_gradient, **knobs):
    memory, found = rule.start(theta), [theta]
    for _ in range(steps):
        _, g = value_and_gradient(f, theta)
        delta, memory = rule.step({"g": g, "theta": theta, "f": Evaluations(f)}, memory, rule.with_defaults(knobs))
        theta = theta + delta
        found.append(theta)
    return found


def test_the_step_is_the_inverse_of_the_fisher_matrix_times_the_gradient():
    f, theta = Reparametrised(lambda phi: phi), drawn(10)
    product = gauss_newton_at(f, theta)
    whole = torch.stack([product(e) for e in torch.eye(10, dtype=DOUBLE)])
    _, g = value_and_gradient(f, theta)
    torch.testing.assert_close(path(f, theta, 1, lr=0.3, **EXACT)[1] - theta, -0.3 * torch.linalg.solve(whole, g))


def test_a_linear_change_of_the_parameters_changes_no_step():
    """theta = A phi."""
    a = drawn(10, 10, seed=3) + 3 * torch.eye(10, dtype=DOUBLE)
    phi = 0.1 * drawn(10)
    mine = path(Reparametrised(lambda phi: a @ phi), phi, 5, lr=0.3, **EXACT)
    plain = path(Reparametrised(lambda theta: theta), a @ phi, 5, lr=0.3, **EXACT)
    for one, other in zip(mine, plain, strict=True):
        torch.testing.assert_close(a @ one, other, rtol=1e-7, atol=1e-9)


def test_the_path_of_small_steps_does_not_depend_on_how_the_model_is_parametrised():
    """theta = sinh(phi): the paths come together as steps get smaller, the gradient's do not."""

    def apart(lr, rule=natural_gradient, **knobs):
        plain = path(Reparametrised(lambda theta: theta), drawn(10), round(0.5 / lr), rule, lr=lr, **knobs)[-1]
        bent = path(Reparametrised(torch.sinh), drawn(10).asinh(), round(0.5 / lr), rule, lr=lr, **knobs)[-1]
        return float((torch.sinh(bent) - plain).norm() / (plain - drawn(10)).norm())

    coarse, fine = apart(0.05, **EXACT), apart(0.0125, **EXACT)
    assert fine < 0.3 * coarse < 0.03

    def sgd(lr):
        ends = []
        for change, start in ((lambda theta: theta, drawn(10)), (torch.sinh, drawn(10).asinh())):
            f, at = Reparametrised(change), start
            for _ in range(round(2 / lr)):
                at = at - lr * value_and_gradient(f, at)[1]
            ends.append(change(at))
        return float((ends[0] - ends[1]).norm() / (ends[0] - drawn(10)).norm())

    assert sgd(0.02) > 0.1


def test_of_a_sum_of_linear_squares_one_step_is_the_solution():
    a, b = drawn(9, 4), drawn(9, seed=1)
    f = LeastSquares(lambda x: a @ x - b)
    torch.testing.assert_close(path(f, drawn(4, seed=2), 1, **EXACT)[1], torch.linalg.lstsq(a, b).solution)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_f_changes_nothing(scale):
    a = drawn(9, 4)

    def squares(scale):
        return LeastSquares(lambda x: scale * (torch.sin(a @ x) - 0.3))

    one, other = (path(squares(s), drawn(4, seed=2), 12)[-1] for s in (1.0, scale))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_a_step_diverges_by_no_more_than_kl_or_always_by_as_much():
    f, theta = Reparametrised(lambda phi: phi), drawn(10)

    def divergence(rule, kl, **knobs):
        delta = path(f, theta, 1, rule, kl=kl, **{**EXACT, **knobs})[1] - theta
        return float(delta @ gauss_newton_at(f, theta)(delta) / 2)

    whole = divergence(natural_gradient, 0.0)
    assert divergence(natural_gradient, 0.1 * whole) == pytest.approx(0.1 * whole)
    assert divergence(natural_gradient, 9 * whole) == pytest.approx(whole)
    always = natural_gradient_with(normalised)
    assert divergence(always, 9 * whole) == pytest.approx(9 * whole)
    assert divergence(always, 0.1 * whole, lr=0.5) == pytest.approx(0.25 * 0.1 * whole)


def test_the_divergence_is_that_of_the_models_predictions():
    """To second order: the mean over the examples of the relative entropy."""
    f, theta = Reparametrised(lambda phi: phi), drawn(10)
    after = path(f, theta, 1, natural_gradient_with(normalised), kl=1e-6, **EXACT)[1]
    old, new = (f.outputs(at).log_softmax(1) for at in (theta, after))
    assert float((old.exp() * (old - new)).sum(1).mean()) == pytest.approx(1e-6, rel=1e-2)


def network(loss=F.cross_entropy):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double(), loss)


def test_damping_is_at_first_relative_to_the_curvature_along_the_gradient_and_adapts():
    net, batch = network(), Batch(drawn(20, 4), classes(20))
    f = net.on(batch)
    _, g = value_and_gradient(f, net.theta)
    along = float(g @ gauss_newton_at(f, net.theta)(g) / (g @ g))
    fixed = [step.memory["strength"] for step in descend(network(), natural_gradient, [batch] * 3, omega=1.0)]
    steps = [step.memory["strength"] for step in descend(net, natural_gradient, [batch] * 4, omega=0.5)]
    assert fixed == [pytest.approx(0.1 * along)] * 3
    assert steps[0] == pytest.approx(0.05 * along)
    assert {round(b / a, 9) for a, b in pairwise(steps)} <= {0.5, 1.0, 2.0}


def test_a_step_on_which_f_rises_is_refused_and_the_next_is_damped_more():
    net, batch = network(), Batch(drawn(20, 4), classes(20))
    f = Evaluations(net.on(batch))
    _, g = f.value_and_gradient(net.theta)
    seen, start = {"g": g, "theta": net.theta, "f": f}, natural_gradient.start(net.theta)
    far, near = (
        natural_gradient.step(seen, start, natural_gradient.with_defaults({"lr": lr, "omega": 0.5})) for lr in (50, 0.1)
    )
    assert not far[0].any() and near[0].any() and far[1]["status"] == Status.GOING_ON
    assert far[1]["strength"] == pytest.approx(4 * near[1]["strength"])


def test_in_a_run_it_descends_on_the_same_batch_and_on_others():
    net = network()
    batches = [Batch(drawn(64, 4, seed=s), (drawn(64, 4, seed=s)[:, :3]).argmax(1)) for s in range(30)]
    losses = [step.loss for step in descend(net, natural_gradient, batches)]
    assert losses[-1] < 0.4 * losses[0]


def test_every_end_has_a_name():
    f = LeastSquares(lambda x: x)
    theta = torch.zeros(2)
    ends = {}
    for name, g in (("minimum", torch.zeros(2)), ("no number", torch.tensor([1.0, torch.nan]))):
        seen = {"g": g, "theta": theta, "f": f}
        delta, memory = natural_gradient.step(seen, natural_gradient.start(theta), natural_gradient.knobs)
        assert not delta.any()
        ends[name] = memory["status"]
    assert ends == {"minimum": Status.CONVERGED, "no number": Status.NOT_FINITE}
    squares = LeastSquares(lambda x: torch.cat([x - 1, torch.ones(1, dtype=DOUBLE)]))
    memory, at = natural_gradient.start(drawn(2)), drawn(2)
    for _ in range(60):
        seen = {"g": at - 1, "theta": at, "f": squares}
        delta, memory = natural_gradient.step(seen, memory, natural_gradient.knobs)
        at = at + delta
    assert memory["status"] == Status.CONVERGED
    torch.testing.assert_close(at, torch.ones(2, dtype=DOUBLE), rtol=1e-7, atol=1e-7)


def test_it_asks_for_a_likelihood():
    net = network(F.huber_loss)
    f = net.on(Batch(drawn(20, 4), drawn(20, 3)))
    with pytest.raises(CurvatureError, match="f says huber_loss"):
        natural_gradient.step({"g": drawn(len(net.theta)), "theta": net.theta, "f": f},
                              natural_gradient.start(net.theta), natural_gradient.knobs)  # fmt: skip
