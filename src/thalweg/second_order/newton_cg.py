"""Newton's method with conjugate gradients (after section 8.6.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.core.derivatives import hessian_at
from thalweg.core.rule import Rule, rule
from thalweg.core.status import Status, going
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.linear import conjugate_gradients, length
from thalweg.second_order.newton import promise, stepped
from thalweg.second_order.radius import forcing, natural_radius, unset
from thalweg.second_order.rounding import unseen

ROUGHEST = 0.5  # of |g|: what conjugate gradients may leave of it


def newton_cg_with(search: Search) -> Rule:
    """Line-search Newton-CG with another line search.

    >>> from thalweg.second_order.line_search import armijo
    >>> newton_cg_with(armijo).remembers
    {'before': unset, 'status': going}
    """

    @rule(per="vector", batched=False)
    def newton_cg(g, theta, f, before=unset, status=going, *, lr=1.0, c1=1e-4, c2=0.9):
        """Newton's method by truncated conjugate gradients (Dembo and Steihaug 1983), and a line search from lr.

        Nocedal and Wright's Algorithm 7.1, on products with the Hessian alone. Conjugate gradients leave eta |g| of it,
        where eta is the square of |g| over the |g| before, at most a half. They end on a direction p of negative
        curvature; the direction of descent is then what they have, as there, plus p, unlike there, as long as curvature
        of the opposite sign would make it: without it the method creeps along curved valleys. A status as newton's.

        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 0.0])
        >>> newton_cg(torch.tensor([4.0, 0.0]), theta, f, 0.0, -1)[0]
        tensor([-2., 0.])
        """
        H, size, eps = hessian_at(f, theta).apply, length(g), torch.finfo(theta.dtype).eps
        d = direction(H, g, theta, forcing(size, before, ROUGHEST))
        if d is not None and promise(g, d) <= unseen(float(f(theta)), theta):
            d = direction(H, g, theta, eps)  # solved roughly, it may promise nothing where there is more to have
        delta, status = stepped(search, f, theta, g, d, lr, c1, c2)
        return delta, before if status == Status.NOT_FINITE else size, int(status)

    return newton_cg


def direction(product: Callable[[Tensor], Tensor], g: Tensor, theta: Tensor, rtol: float) -> Tensor | None:
    """What conjugate gradients find of Hd = -g, and a direction of negative curvature; None where Hd is not finite.

    >>> H, g = torch.diag(torch.tensor([1.0, -3.0])), torch.tensor([1.0, 1.0])
    >>> direction(H.mv, g, torch.ones(2), 0.1)
    tensor([-1., -1.])
    """
    solved = conjugate_gradients(product, -g, rtol=rtol)
    d, p = solved.x, solved.negative
    if p is not None:
        curvature = abs(float(p @ product(p)))
        d = d + (abs(float(g @ p)) / curvature if curvature else natural_radius(product, g, theta) / length(p)) * p
    return d if bool(d.isfinite().all()) and bool(d.any()) else None


newton_cg = newton_cg_with(wolfe)
