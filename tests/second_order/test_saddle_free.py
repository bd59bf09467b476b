import itertools

import pytest
import torch

from thalweg.core.derivatives import gradient, hessian, hessian_at
from thalweg.core.objective import Evaluations
from thalweg.second_order.krylov import krylov
from thalweg.second_order.line_search import fixed
from thalweg.second_order.saddle_free_newton import direction, saddle_free_newton, saddle_free_newton_with


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(n, seed=0):
    H = drawn(n, n, seed=seed)
    return H + H.T


def saddle(x):
    return x[0] ** 2 - x[1] ** 2


def monkey_saddle(x):
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2


def after(rule, f, theta, steps, **knobs):
    memory, f = rule.start(theta, **knobs), Evaluations(f)
    for _ in range(steps):
        _, g = f.value_and_gradient(theta)
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, rule.with_defaults(knobs))
        theta = theta + delta
    return theta


def after_newton(f, theta, steps):
    for _ in range(steps):
        theta = theta - torch.linalg.solve(hessian(f, theta), gradient(f, theta))
    return theta


@pytest.mark.parametrize("f", [saddle, monkey_saddle], ids=["saddle", "monkey saddle"])
@pytest.mark.parametrize("off", [1e-3, 1e-8, 1e-15])
def test_it_leaves_the_saddles_to_which_newton_is_drawn(f, off):
    theta = torch.tensor([off, 1.0] if f is monkey_saddle else [1.0, off], dtype=torch.float64)
    assert float(after_newton(f, theta, 40).norm()) < 1e-9
    assert float(f(after(saddle_free_newton, f, theta, 40))) < -1


def test_without_a_line_search_it_is_repelled_from_a_saddle_as_fast_as_it_is_drawn_along_the_other_axis():
    theta = after(saddle_free_newton_with(fixed), saddle, torch.tensor([1.0, 1e-6]).double(), 10)
    torch.testing.assert_close(theta, torch.tensor([0.0, 2**10 * 1e-6]).double())


def test_in_all_dimensions_the_direction_is_that_of_the_absolute_hessian():
    H, g = symmetric(8), drawn(8, seed=1)
    w, V = torch.linalg.eigh(H)
    torch.testing.assert_close(direction(H.mv, g, 8, 0.0), -V @ (V.T @ g / w.abs()))
    damped = -V @ (V.T @ g / (w.abs() + 0.1 * w.abs().max()))
    torch.testing.assert_close(direction(H.mv, g, 8, 0.1), damped)


def test_in_fewer_it_is_the_one_in_the_krylov_space():
    H, g = symmetric(12), drawn(12, seed=1)
    K = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(H, i) @ g for i in range(4)], dim=1)).Q
    w, V = torch.linalg.eigh(K.T @ H @ K)
    torch.testing.assert_close(direction(H.mv, g, 4, 0.0), -K @ V @ (V.T @ K.T @ g / w.abs()))


def test_where_the_hessian_is_positive_it_is_newtons():
    f, theta = (lambda x: x.exp().sum() + x.square().sum()), drawn(5)
    d = direction(hessian_at(f, theta), gradient(f, theta), 5, 0.0)
    torch.testing.assert_close(d, -torch.linalg.solve(hessian(f, theta), gradient(f, theta)))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_f_makes_no_difference_to_it(scale):
    H, g = symmetric(8).float(), drawn(8, seed=1).float()
    one, other = direction(H.mv, g, 5, 0.0), direction((scale * H).mv, scale * g, 5, 0.0)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_step_costs_as_many_products_as_the_subspace_has_dimensions():
    H = symmetric(30) + 20 * torch.eye(30)
    f, theta = Evaluations(lambda x: x @ H @ x / 2), drawn(30, seed=1)
    _, g = f.value_and_gradient(theta)
    saddle_free_newton.step(
        {"g": g, "theta": theta, "f": f}, saddle_free_newton.start(theta), {**saddle_free_newton.knobs, "subspace": 7.0}
    )
    assert f.nhev == 7


# Lanczos


def test_the_basis_is_orthonormal_and_the_matrix_in_it_tridiagonal():
    H, g = symmetric(40), drawn(40, seed=1)
    found = krylov(H.mv, g, 25)
    eye = torch.eye(25, dtype=torch.float64)
    torch.testing.assert_close(found.Q @ found.Q.T, eye, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(found.Q @ H @ found.Q.T, found.T, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(found.Q.T @ found.c, g)
    torch.testing.assert_close(found.c, torch.cat([g.norm()[None], torch.zeros(24).double()]), rtol=0.0, atol=1e-12)


def test_in_all_dimensions_the_eigenvalues_are_those_of_the_matrix():
    H = symmetric(20)
    torch.testing.assert_close(torch.linalg.eigvalsh(krylov(H.mv, drawn(20, seed=1), 99).T), torch.linalg.eigvalsh(H))


def test_in_float32_the_basis_stays_orthonormal():
    H = torch.diag(torch.logspace(-6, 6, 50))
    found = krylov(H.mv, torch.ones(50), 50)
    torch.testing.assert_close(found.Q @ found.Q.T, torch.eye(len(found.Q)), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("g", [torch.eye(6)[0].double(), torch.zeros(6).double()], ids=["an eigenvector", "zero"])
def test_what_is_orthogonal_to_an_invariant_space_is_found_from_chance(g):
    H = torch.diag(torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0, -5.0])).double()
    found = krylov(H.mv, g, 6)
    assert float(torch.linalg.eigvalsh(found.T)[0]) == pytest.approx(-5.0)
    torch.testing.assert_close(found.Q.T @ found.c, g)


@pytest.mark.parametrize("g", [[1.0, -1.0], [1.0, 1.0], [1.0, 0.0], [0.3, -0.7]], ids=str)
def test_the_direction_of_chance_is_never_one_of_the_space(g):
    found = krylov(torch.eye(2).double().mv, torch.tensor(g).double(), 2)
    torch.testing.assert_close(found.Q @ found.Q.T, torch.eye(2).double())


def test_it_ends_where_it_is_told():
    ends = [len(krylov(symmetric(9).mv, drawn(9, seed=1), 9, lambda T, c, left, k=k: len(T) == k).T) for k in (1, 3, 9)]
    assert ends == [1, 3, 9]


def test_each_step_leaves_what_the_next_adds():
    seen = []
    krylov(symmetric(9).mv, drawn(9, seed=1), 9, lambda T, c, left: seen.append((T, left)))
    for (_, left), (T, _) in itertools.pairwise(seen):
        assert float(T[-1, -2]) == left


def test_a_product_that_is_no_number_gives_nothing():
    assert krylov(lambda u: u * float("nan"), torch.ones(3), 3) is None
    assert direction(lambda u: u * float("inf"), torch.ones(3), 3, 0.0) is None
