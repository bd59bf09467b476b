"""Nonlinear conjugate gradients (section 8.6.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.core.rule import Rule, Start, clock, rule, zeros, one
from thalweg.core.status import going
from thalweg.second_order.descent import descended
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.linear import length

Beta = Callable[[Tensor, Tensor, Tensor], float]
nothing = Start("nothing", lambda theta, knobs: 0.0, scalar=True)
O = dict(powell=.2, restart=1.0, guess="slope", cap=1e9)

def conjugate_gradients_with(beta: Beta, search: Search = wolfe, powell: bool = True) -> Rule:
    @rule(per="vector", batched=False)
    def cg(g, theta, f, d=zeros, before=zeros, t=clock, alpha=one, slope=nothing, drop=nothing, status=going, *, lr=1.0, c1=1e-4, c2=0.1):
        direction, first = None, 1.0
        if t:
            unit = float(g.abs().max()) or 1.0
            a, b, c = g / unit, before / unit, d / unit
            share = beta(a, b, c) if t < O["restart"]*len(g) else 0.0
            aa=float(a @ a)
            if powell and abs(float(a @ b)) >= O["powell"] * aa:
                share = 0.0
            direction = -g + share * d
            now = float(g @ direction)
            if not now < -1e-8*length(g)*length(direction):
                share, direction = 0.0, -g
                now = float(g @ direction)
            if share == 0.0: t = 0
            if O["guess"] == "slope":
                first = alpha * slope / now
            elif O["guess"] == "drop":
                first = 2 * drop / now * 1.01
            elif O["guess"] == "min":
                first = min(alpha*slope/now, 2 * drop / now * 1.01)
            elif O["guess"] == "alpha":
                first = alpha
            elif O["guess"] == "alpha_restart":
                first = alpha * slope/now if t == 0 else alpha
            first = min(max(first,0) or alpha, O["cap"]*alpha)
        v0 = float(f(theta))
        step = descended(search, f, theta, g, direction, first, lr=lr, c1=c1, c2=c2)
        if step.steepest: t = 0
        slope = float(g @ step.d) 
        if step.alpha == 0: return step.delta, torch.zeros_like(g), g.clone(), 0, 1.0, 0.0, 0.0, int(step.status)
        return step.delta, (step.d if not step.steepest else -g) , g.clone(), t + 1, step.alpha, slope, step.value-v0, int(step.status)
    return cg

def fr(g, before, d): return float(g @ g) / float(before @ before)
def pr(g, before, d): return max(0.0, float(g @ (g - before)) / float(before @ before))
def hs(g, before, d): return max(0.0, float(g @ (g - before)) / float(d @ (g-before)))
def dy(g, before, d): return max(0.0, float(g @ g) / float(d @ (g - before)))
def hsdy(g, before, d): return max(0.0, min(hs(g,before,d), dy(g,before,d)))
def hz(g, before, d):
    y = g - before
    dy = float(d @ y)
    b = (float(y @ g) - 2 * float(y @ y) * float(d @ g) / dy) / dy
    return max(b, 0.4 * float(d @ before) / float(d @ d))
