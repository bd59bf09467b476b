"""L-BFGS-B (after section 8.6.3)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.core.rule import Rule, rule
from thalweg.core.status import Status, going
from thalweg.second_order.box import box, freed, inside, outside, searched_inside
from thalweg.second_order.descent import first_step
from thalweg.second_order.lbfgs import pairs, remembered, two_loop, weights
from thalweg.second_order.line_search import Found, Search, wolfe
from thalweg.second_order.rounding import at_rest


def lbfgsb_with(search: Search) -> Rule:
    """L-BFGS-B with another line search.

    >>> from thalweg.second_order.line_search import armijo
    >>> lbfgsb_with(armijo).name
    'lbfgsb'
    """

    @rule(per="vector", batched=False)
    def lbfgsb(
        g, theta, f, S=pairs, Y=pairs, rho=weights, status=going,
        *, lr=1.0, c1=1e-4, c2=0.9, history_size=10.0, lower=-math.inf, upper=math.inf,
    ):  # fmt: skip
        """L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995): L-BFGS within bounds, by a model's minimum over a face of the box.

        The model is that of L-BFGS, of the last `history_size` pairs; the face is the one on which it is first least
        along the projected steepest descent. Over the variables that are free there the model is minimised, and the
        minimum projected on the box (Morales and Nocedal 2011). A line search goes from theta that way, and along the
        bounds `lower` and `upper`, numbers or (n,), where it meets them: theta plus the step is inside them exactly. A
        theta that is outside is first put in.

        Where the line search fails the pairs are forgotten and the projected steepest descent searched; where that
        fails too, the status is why: LINE_SEARCH_FAILED, CONVERGED where rounding hides what f does, UNBOUNDED,
        NOT_FINITE. With nothing free that has a slope, it is CONVERGED.

        >>> f, theta = (lambda x: ((x - 2) ** 2).sum()), torch.tensor([0.0, 0.5])
        >>> seen = {"g": 2 * (theta - 2), "theta": theta, "f": f}
        >>> knobs = lbfgsb.with_defaults({"upper": 1.0, "lr": 1e3})
        >>> lbfgsb.step(seen, lbfgsb.start(theta), knobs)[0]
        tensor([1.0000, 0.5000])
        """
        low, high = box(theta, lower, upper)
        value, still = float(f(theta)), torch.zeros_like(theta)
        if outside(theta, low, high):
            return inside(theta, still, low, high), S, Y, rho, int(Status.GOING_ON)
        if not (math.isfinite(value) and bool(g.isfinite().all())):
            return still, S, Y, rho, int(Status.NOT_FINITE)
        free = freed(theta, g, low, high)
        if not free.any():
            return still, S, Y, rho, int(Status.CONVERGED)

        def searched(d: Tensor) -> tuple[Found, Tensor]:
            return searched_inside(search, f, theta, d, value, g, lr, low, high, c1=c1, c2=c2)

        hidden, found, delta = False, Found(0.0, value, g, Status.GOING_ON), still
        d = _newton(g, theta, low, high, S, Y, rho) if rho[-1] else still
        if d.any():
            (found, delta), promised = searched(d), -lr * float(g @ d)
            hidden = promised >= 0 and at_rest(promised, value, theta)
        if not found.alpha:
            S, Y, rho = torch.zeros_like(S), torch.zeros_like(Y), torch.zeros_like(rho)
            found, delta = searched(-first_step(theta, value, free) / float(free.abs().max()) * free)
        ends = found.status
        if found.alpha:
            ends = ends if ends == Status.UNBOUNDED else Status.GOING_ON
        elif hidden:
            ends = Status.CONVERGED
        return delta, *remembered(S, Y, rho, delta, found.g - g), int(ends)

    return lbfgsb


def _newton(g: Tensor, theta: Tensor, lower: Tensor, upper: Tensor, S: Tensor, Y: Tensor, rho: Tensor) -> Tensor:
    """From theta to the model's minimum, where that is inside, else on a face of the box; 0 where rounding lost it."""
    d = -two_loop(g, S, Y, rho)  # far more stable than the compact matrix
    if outside(theta + d, lower, upper):
        d = _on_a_face(g.double(), theta.double(), lower.double(), upper.double(), S, Y, rho).to(theta)
    return d if bool(d.isfinite().all()) else torch.zeros_like(theta)


def _on_a_face(g: Tensor, x: Tensor, lower: Tensor, upper: Tensor, S: Tensor, Y: Tensor, rho: Tensor) -> Tensor:
    """From x, by the Cauchy point, to the least of the model over its face, projected on the box."""
    B = compact(S, Y, rho)
    at = cauchy_point(g, x, lower, upper, B)
    free = (at > lower) & (at < upper)
    r = (g + B.scale * (at - x) - B.W.T @ (B.M @ (B.W @ (at - x)))) * free
    W = B.W * free
    through = torch.linalg.solve_ex(B.inverse - W @ W.T / B.scale, W @ r).result
    newton = -(r + W.T @ through / B.scale) / B.scale
    best = torch.clamp(at + newton, lower, upper)
    if not float((best - x) @ g) < 0:  # projected, the step leads up: it is cut where it leaves the box, as in 1995
        room = torch.where(newton > 0, (upper - at) / newton, torch.where(newton < 0, (lower - at) / newton, torch.inf))
        best = torch.clamp(at + min(1.0, float(room.min())) * newton, lower, upper)
    return best - x


class Compact(NamedTuple):
    """The quasi-Newton matrix scale I - WᵀMW."""

    scale: float
    W: Tensor  # (2k, n)
    M: Tensor  # (2k, 2k)
    inverse: Tensor  # of M


def compact(S: Tensor, Y: Tensor, rho: Tensor) -> Compact:
    """The matrix that the pairs S, Y: (m, n) make, of which rho: (m,) is one over the products, 0 for what is no pair.

    >>> B = compact(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0.5]))
    >>> B.scale * torch.eye(2).double() - B.W.T @ B.M @ B.W
    tensor([[2.0000, 0.0000],
            [0.0000, 2.0000]], dtype=torch.float64)
    """
    used = rho > 0
    root = rho[used].double().sqrt()[:, None]
    S, Y = root * S[used].double(), root * Y[used].double()  # sᵀy is one in each pair: M is better conditioned
    scale = float(Y[-1] @ Y[-1])
    mixed = torch.tril(S @ Y.T, -1)
    eye = torch.eye(len(S), dtype=S.dtype, device=S.device)
    inverse = torch.cat([torch.cat([-eye, mixed.T], 1), torch.cat([mixed, scale * S @ S.T], 1)])
    return Compact(scale, torch.cat([Y, scale * S]), torch.linalg.inv_ex(inverse).inverse, inverse)


def cauchy_point(g: Tensor, x: Tensor, lower: Tensor, upper: Tensor, B: Compact) -> Tensor:
    """The first minimum of the model along clip(x - t g), t >= 0; not a number where rounding has lost B.

    The path has a kink at each t where a variable meets its bound. All pieces between them are looked at together: what
    Algorithm CP adds from one to the next are running sums here.

    >>> B = compact(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0.5]))
    >>> g, x, end = torch.tensor([-2.0, -4.0]).double(), torch.zeros(2).double(), torch.ones(2).double()
    >>> cauchy_point(g, x, -end, end, B)
    tensor([1., 1.], dtype=torch.float64)
    """
    bound = torch.where(g < 0, upper, lower)
    kinks = torch.where(g == 0, torch.inf, (x - bound) / g)
    d = torch.where(kinks > 0, -g, 0.0)
    t, order = torch.where(kinks > 0, kinks, torch.inf).sort()
    met = int(t.isfinite().sum())
    t, g_met, W = t[:met], g[order[:met]], B.W[:, order[:met]]
    lengths = t.diff(prepend=t.new_zeros(1))
    p = (B.W @ d)[:, None] + _before(g_met * W)  # (2k, pieces): W times the direction of each piece
    c = (lengths * p[:, :-1]).cumsum(1)  # (2k, kinks): W times the way from x to each kink
    MW, steep = B.M @ W, float(d @ d)
    second = B.scale * steep - float(p[:, 0] @ B.M @ p[:, 0])
    if not 0 < second < math.inf:
        return x * torch.nan  # B is lost in rounding
    seconds = second - _before(B.scale * g_met**2 + g_met * (MW * (2 * p[:, :-1] + g_met * W)).sum(0))
    seconds = seconds.clamp(min=torch.finfo(x.dtype).eps * second)
    firsts = -steep + _before(lengths * seconds[:-1] + g_met**2 * (1 - B.scale * t) - g_met * (MW * c).sum(0))
    minima = (-firsts / seconds).clamp(min=0.0)  # from the start of each piece
    piece = int((~(minima >= torch.cat([lengths, t.new_full((1,), torch.nan)]))).nonzero()[0])
    far = float(minima[piece]) + (float(t[piece - 1]) if piece else 0.0)
    return torch.where(kinks <= far, bound, x + far * d)


def _before(terms: Tensor) -> Tensor:
    """The sums of what is before each place, and of all: one more than there are terms."""
    return torch.cat([terms.new_zeros(*terms.shape[:-1], 1), terms.cumsum(-1)], -1)


lbfgsb = lbfgsb_with(wolfe)
