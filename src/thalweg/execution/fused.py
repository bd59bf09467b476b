"""torch's own fused kernels, as executors of the rules for which they exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.adaptive.adagrad import adagrad
from thalweg.adaptive.adam import adam
from thalweg.adaptive.amsgrad import amsgrad
from thalweg.basic.momentum import momentum
from thalweg.basic.nesterov import nesterov
from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Memory, Rule
from thalweg.strategies.decay import decayed
from thalweg.strategies.penalised import penalised

Lists = Mapping[str, Sequence[Tensor]]


def _adam(kernel: Callable[..., None], amsgrad: bool = False) -> Callable[..., Memory]:
    def advance(
        params: Sequence[Tensor], memory: Lists, grads: Sequence[Tensor], scalars: Memory, knobs: Mapping[str, Any]
    ) -> Memory:
        t = scalars["t"] + 1
        steps = [torch.full((), float(t), device=params[0].device)] * len(params)
        kernel(
            list(params),
            list(grads),
            list(memory["m"]),
            list(memory["v"]),
            list(memory["v_max"]) if amsgrad else [],
            steps,
            lr=float(knobs["lr"]),
            beta1=float(knobs["beta1"]),
            beta2=float(knobs["beta2"]),
            eps=float(knobs["eps"]),
            weight_decay=float(knobs.get("weight_decay", 0.0)),
            amsgrad=amsgrad,
            maximize=False,
        )
        return {"t": t}

    return advance


def _sgd(nesterov: bool) -> Callable[..., Memory]:
    def advance(
        params: Sequence[Tensor], memory: Lists, grads: Sequence[Tensor], scalars: Memory, knobs: Mapping[str, Any]
    ) -> Memory:
        torch._fused_sgd_(
            list(params),
            list(grads),
            list(memory["velocity"]),
            lr=float(knobs["lr"]),
            momentum=float(knobs["momentum"]),
            dampening=0.0,
            weight_decay=float(knobs.get("weight_decay", 0.0)),
            nesterov=nesterov,
            maximize=False,
            is_first_step=False,
        )
        return {}

    return advance


def _adagrad(
    params: Sequence[Tensor], memory: Lists, grads: Sequence[Tensor], scalars: Memory, knobs: Mapping[str, Any]
) -> Memory:
    t = scalars["t"] + 1
    torch._fused_adagrad_(
        list(params),
        list(grads),
        list(memory["r"]),
        [torch.full((), float(t), device=params[0].device)] * len(params),
        lr=float(knobs["lr"]),
        lr_decay=float(knobs["lr_decay"]),
        weight_decay=float(knobs.get("weight_decay", 0.0)),
        eps=float(knobs["eps"]),
        maximize=False,
    )
    return {"t": t}


FUSED: dict[Rule, Callable[..., Memory]] = {
    adam: _adam(torch._fused_adam_),
    amsgrad: _adam(torch._fused_adam_, amsgrad=True),
    momentum: _sgd(nesterov=False),
    nesterov: _sgd(nesterov=True),
    adagrad: _adagrad,
}
DECAYED = {adam: _adam(torch._fused_adamw_), amsgrad: _adam(torch._fused_adamw_, amsgrad=True)}


def kernel(rule: Rule) -> Callable[..., Memory]:
    """torch's fused kernel for a rule, with weight decay around it or without; AlgorithmError where it has none.

    The rule is known by itself, not by its name: a rule of one's own may be called adam too.
    """
    if rule.wraps is None:
        found = FUSED.get(rule)
    else:
        of = {penalised(adam).source: FUSED, decayed(adam).source: DECAYED}.get(rule.source, {})
        found = of.get(rule.wraps[1])
    if found is None:
        names = ", ".join(known.name for known in FUSED)
        raise AlgorithmError(f"torch has no fused kernel for {rule.name}: it has one for {names}, decayed or not")
    return found
