"""torch's own fused kernels, as executors of the rules for which they exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.core.rule import Memory

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


FUSED: dict[str, Callable[..., Memory]] = {
    "adam": _adam(torch._fused_adam_),
    "penalised(adam)": _adam(torch._fused_adam_),
    "adamw": _adam(torch._fused_adamw_),
    "decayed(adam)": _adam(torch._fused_adamw_),
    "amsgrad": _adam(torch._fused_adam_, amsgrad=True),
    "penalised(amsgrad)": _adam(torch._fused_adam_, amsgrad=True),
    "decayed(amsgrad)": _adam(torch._fused_adamw_, amsgrad=True),
    "momentum": _sgd(nesterov=False),
    "penalised(momentum)": _sgd(nesterov=False),
    "nesterov": _sgd(nesterov=True),
    "penalised(nesterov)": _sgd(nesterov=True),
    "adagrad": _adagrad,
    "penalised(adagrad)": _adagrad,
}
