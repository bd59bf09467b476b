"""L-BFGS-B (after section 8.6.3)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import value_and_gradient
from thalweg.core.rule import Rule, rule
from thalweg.core.status import Status, going
from thalweg.second_order.box import box, held, inside
from thalweg.second_order.descent import first_step
from thalweg.second_order.lbfgs import pairs, remembered, weights
from thalweg.second_order.line_search import Found, Search, wolfe


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
        """L-BFGS within bounds (Byrd, Lu, Nocedal and Zhu 1995): the quasi-Newton model is least over a face of the box.

        The face is where the model's first minimum lies along the path of the projected steepest descent, the Cauchy
        point; over the variables that are free there the model is minimised, and the result projected on the box
        (Morales and Nocedal 2011), or cut at its border where the projection would lead up. A line search goes that
        way, at most as far as the bounds allow. theta plus the step is inside them exactly, also where theta was not.

        `history_size` pairs of steps and changes of the gradient make the model; a pair without positive curvature is
        skipped. Where the line search finds nothing they are forgotten, and the projected steepest descent is tried
        before the status says why.

        >>> f, theta = (lambda x: ((x - 2) ** 2).sum()), torch.tensor([0.0, 0.5])
        >>> seen = {"g": 2 * (theta - 2), "theta": theta, "f": f}
        >>> knobs = lbfgsb.with_defaults({"upper": 1.0, "lr": 1e3})
        >>> lbfgsb.step(seen, lbfgsb.start(theta), knobs)[0]
        tensor([1.0000, 0.5000])
        """
        low, high = box(theta, lower, upper)
        still = torch.zeros_like(theta)
        if bool(((theta < low) | (theta > high)).any()):
            return inside(theta, still, low, high), S, Y, rho, int(Status.GOING_ON)
        value = float(f(theta))
        if not (math.isfinite(value) and bool(g.isfinite().all())):
            return still, S, Y, rho, int(Status.NOT_FINITE)
        if bool(held(theta, g, low, high).logical_or(g == 0).all()):
            return still, S, Y, rho, int(Status.CONVERGED)
        knobs = {"c1": c1, "c2": c2}
        found = None
        d = _direction(g, theta, low, high, _compact(S, Y, rho)) if rho[-1] else None
        if d is not None:
            found = _within(search, f, theta, d, value, g, lr, low, high, **knobs)
        if found is None or not found.alpha:
            S, Y, rho = torch.zeros_like(S), torch.zeros_like(Y), torch.zeros_like(rho)
            d = inside(theta, -first_step(theta, value, g) / float(g.abs().max()) * g, low, high)
            found = _within(search, f, theta, d, value, g, lr, low, high, **knobs)
        delta, ends = found.alpha * d, found.status if not found.alpha or found.status == Status.UNBOUNDED else Status.GOING_ON
        return delta, *remembered(S, Y, rho, delta, found.g - g), int(ends)

    return lbfgsb


class _Compact(NamedTuple):
    """The quasi-Newton matrix scale I - WᵀMW."""

    scale: float
    W: Tensor  # (2k, n)
    M: Tensor  # (2k, 2k)
    inverse: Tensor  # of M


def _compact(S: Tensor, Y: Tensor, rho: Tensor) -> _Compact:
    used = rho > 0
    root = rho[used].double().sqrt()[:, None]
    S, Y = root * S[used].double(), root * Y[used].double()  # sᵀy is one in each pair: M is better conditioned
    scale = float(Y[-1] @ Y[-1])
    mixed = torch.tril(S @ Y.T, -1)
    eye = torch.eye(len(S), dtype=S.dtype, device=S.device)
    inverse = torch.cat([torch.cat([-eye, mixed.T], 1), torch.cat([mixed, scale * S @ S.T], 1)])
    return _Compact(scale, torch.cat([Y, scale * S]), torch.linalg.inv_ex(inverse).inverse, inverse)


def _direction(g: Tensor, theta: Tensor, lower: Tensor, upper: Tensor, B: _Compact) -> Tensor | None:
    """From theta to the least of the model over the face of the Cauchy point; None where B is lost in rounding."""
    x, low, high, slope = theta.double(), lower.double(), upper.double(), g.double()
    at = _cauchy(slope, x, low, high, B)
    if at is None:
        return None
    free = (at > low) & (at < high)
    r = (slope + B.scale * (at - x) - B.W.T @ (B.M @ (B.W @ (at - x)))) * free
    W = B.W * free
    through = torch.linalg.solve_ex(B.inverse - W @ W.T / B.scale, W @ r).result
    newton = -(r + W.T @ through / B.scale) / B.scale
    best = torch.clamp(at + newton, low, high)
    if not float((best - x) @ slope) < 0:  # projected, the step leads up: it is cut where it leaves the box, as in 1995
        room = torch.where(newton > 0, (high - at) / newton, torch.where(newton < 0, (low - at) / newton, torch.inf))
        best = torch.clamp(at + min(1.0, float(room.min())) * newton, low, high)
    return inside(theta, (best - x).to(theta), lower, upper) if bool(best.isfinite().all()) else None


def _cauchy(g: Tensor, x: Tensor, lower: Tensor, upper: Tensor, B: _Compact) -> Tensor | None:
    """The first minimum of the model along clip(x - t g), t >= 0.

    The path has a kink at each t where a variable meets its bound. All pieces between them are looked at together: what
    Algorithm CP adds from one to the next are running sums here.
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
        return None
    seconds = second - _before(B.scale * g_met**2 + g_met * (MW * (2 * p[:, :-1] + g_met * W)).sum(0))
    seconds = seconds.clamp(min=torch.finfo(x.dtype).eps * second)
    firsts = -steep + _before(lengths * seconds[:-1] + g_met**2 * (1 - B.scale * t) - g_met * (MW * c).sum(0))
    minima = (-firsts / seconds).clamp(min=0.0)  # from the start of each piece
    piece = int((minima < torch.cat([lengths, t.new_full((1,), torch.inf)])).nonzero()[0])
    far = float(minima[piece]) + (float(t[piece - 1]) if piece else 0.0)
    return torch.where(kinks <= far, bound, x + far * d)


def _before(terms: Tensor) -> Tensor:
    """The sums of what is before each place, and of all: one more than there are terms."""
    return torch.cat([terms.new_zeros(*terms.shape[:-1], 1), terms.cumsum(-1)], -1)


class _Walled(NamedTuple):
    """f within bounds, plus infinity outside."""

    f: Any
    lower: Tensor
    upper: Tensor

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        if bool(((theta < self.lower) | (theta > self.upper)).any()):
            return theta.new_tensor(torch.inf), torch.full_like(theta, torch.nan)
        return value_and_gradient(self.f, theta)

    def __call__(self, theta: Tensor) -> Tensor:
        inside_all = not bool(((theta < self.lower) | (theta > self.upper)).any())
        found: Tensor = self.f(theta) if inside_all else theta.new_tensor(torch.inf)
        return found


def _within(
    search: Search, f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, lr: float, lower: Tensor, upper: Tensor,
    *, c1: float, c2: float,
) -> Found:  # fmt: skip
    """The line search from theta along d, where theta + d is within the bounds; where f still falls at them, to them."""
    slope = float(g @ d)
    bound = torch.where(d > 0, upper, lower)
    room = float(torch.where(d == 0, torch.inf, (bound - theta) / d).min())
    alpha = lr if room > lr else min(lr, 1.0)
    if alpha >= room * (1 - 1e-6) and slope < 0:
        trial, ahead = value_and_gradient(f, theta + alpha * d)
        if float(trial) <= value + c1 * alpha * slope and float(ahead @ d) <= 0:
            return Found(alpha, float(trial), ahead, Status.GOING_ON)
    found = search(_Walled(f, lower, upper), theta, d, value, g, alpha, c1=c1, c2=c2)
    worth = found.value < value or float(found.g.norm()) < float(g.norm())
    return found if worth else found._replace(alpha=0.0)


lbfgsb = lbfgsb_with(wolfe)
