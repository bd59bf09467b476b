import math

import pytest
import torch

from thalweg.core.derivatives import hessian_at
from thalweg.second_order.linear import conjugate_gradients, length


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_eigenvalues(values, seed=0):
    Q = torch.linalg.qr(drawn(len(values), len(values), seed=seed)).Q
    return Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T


def test_a_positive_definite_system_ends_in_n_steps():
    A, b = with_eigenvalues(torch.linspace(1, 30, 12)), drawn(12, seed=1)
    solved = conjugate_gradients(A, b)
    assert solved.iterations <= 12 and solved.negative is None
    assert solved.residual_norm <= 1e-10 * b.norm()
    torch.testing.assert_close(solved.x, torch.linalg.solve(A, b))


def test_as_many_steps_as_eigenvalues_that_differ():
    A = with_eigenvalues([2.0] * 5 + [7.0] * 4 + [30.0])
    assert conjugate_gradients(A, drawn(10, seed=1)).iterations == 3


def test_each_iterate_has_the_least_error_in_its_krylov_space():
    A, b = with_eigenvalues(torch.logspace(0, 2, 8)), drawn(8, seed=1)
    x = torch.linalg.solve(A, b)
    for k in (1, 3, 5):
        K = torch.stack([torch.linalg.matrix_power(A, i) @ b for i in range(k)], dim=1)
        best = K @ torch.linalg.solve(K.T @ A @ K, K.T @ b)
        found = conjugate_gradients(A, b, most=k)
        assert found.iterations == k
        torch.testing.assert_close((found.x - x) @ A @ (found.x - x), (best - x) @ A @ (best - x))


def test_it_goes_on_from_where_it_is_started():
    A, b = with_eigenvalues(torch.linspace(1, 9, 6)), drawn(6, seed=1)
    near = torch.linalg.solve(A, b) + 1e-8
    before = near.clone()
    assert conjugate_gradients(A, b, near, rtol=1e-6).iterations == 0
    torch.testing.assert_close(conjugate_gradients(A, b, near, rtol=1e-12).x, torch.linalg.solve(A, b))
    assert torch.equal(near, before)


def test_from_zero_to_a_b_of_zero_is_no_step():
    solved = conjugate_gradients(torch.eye(3), torch.zeros(3))
    assert solved.iterations == 0 and solved.residual_norm == 0 and not solved.x.any()


def test_a_matrix_its_product_and_the_hessian_of_f_are_the_same():
    A, b = with_eigenvalues(torch.linspace(1, 9, 6)), drawn(6, seed=1)
    product = hessian_at(lambda x: x @ A @ x / 2, torch.zeros(6, dtype=torch.float64))
    assert torch.equal(conjugate_gradients(A, b).x, conjugate_gradients(A.mv, b).x)
    torch.testing.assert_close(conjugate_gradients(product, b).x, conjugate_gradients(A, b).x)


@pytest.mark.parametrize("kind", ["matrix", "product", "vector"])
def test_the_inverse_as_preconditioner_needs_one_step(kind):
    values = torch.logspace(-3, 3, 8, dtype=torch.float64)
    A = torch.diag(values)
    M = {"matrix": A.inverse(), "product": lambda r: r / values, "vector": 1 / values}[kind]
    solved = conjugate_gradients(A, drawn(8, seed=1), preconditioner=M)
    assert solved.iterations == 1


def test_preconditioning_is_a_change_of_variables():
    A, b = with_eigenvalues(torch.linspace(1, 50, 8)), drawn(8, seed=1)
    C = drawn(8, 8, seed=2)  # the preconditioner is C Cᵀ: in x = C y the plain method
    plain = conjugate_gradients(C.T @ A @ C, C.T @ b, most=4, rtol=0.0)
    torch.testing.assert_close(conjugate_gradients(A, b, preconditioner=C @ C.T, most=4, rtol=0.0).x, C @ plain.x)


def test_negative_curvature_is_reported_and_what_was_found_before_is_kept():
    A, b = with_eigenvalues([-3.0, 1.0, 2.0, 5.0, 8.0]), drawn(5, seed=1)
    kept = []
    solved = conjugate_gradients(A, b, watch=lambda i, x, r: kept.append(x))
    p = solved.negative
    assert p is not None and p @ A @ p < 0 and p @ b > 0
    assert solved.iterations == len(kept) and torch.equal(solved.x, kept[-1] if kept else torch.zeros_like(b))
    torch.testing.assert_close(torch.tensor(solved.residual_norm).double(), (b - A @ solved.x).norm())


def test_a_matrix_of_zeros_has_no_positive_curvature():
    b = drawn(3)
    solved = conjugate_gradients(torch.zeros_like, b)
    assert solved.iterations == 0 and solved.negative is not None


def test_watch_sees_every_iterate_and_may_end_it():
    A, b = with_eigenvalues(torch.linspace(1, 9, 6)), drawn(6, seed=1)
    seen = []

    def watch(i, x, r):
        seen.append((i, x, r))
        return i == 3

    solved = conjugate_gradients(A, b, watch=watch)
    assert [i for i, _, _ in seen] == [1, 2, 3] == list(range(1, solved.iterations + 1))
    for _, x, r in seen:
        torch.testing.assert_close(r, b - A @ x)
    falls = [float(x @ A @ x / 2 - b @ x) for _, x, _ in seen]
    assert falls == sorted(falls, reverse=True)


def test_what_is_no_number_ends_it():
    solved = conjugate_gradients(lambda u: u * math.nan, torch.ones(3))
    assert math.isnan(solved.residual_norm) and solved.negative is None and not solved.x.any()


def test_a_preconditioner_that_is_not_positive_ends_it():
    solved = conjugate_gradients(torch.eye(3), torch.ones(3), preconditioner=-torch.ones(3))
    assert solved.iterations == 0 and solved.negative is None


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_in_float32_the_scale_of_the_system_makes_no_difference(scale):
    A, b = with_eigenvalues(torch.logspace(0, 2, 10)).float(), drawn(10, seed=1).float()
    one, other = conjugate_gradients(A, b, rtol=1e-4), conjugate_gradients(scale * A, scale * b, rtol=1e-4)
    assert one.iterations == other.iterations
    torch.testing.assert_close(one.x, other.x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_length_of_a_vector_stays_in_the_range_of_float32(scale):
    assert length(scale * torch.tensor([3.0, 4.0])) == pytest.approx(5 * scale, rel=1e-6)
