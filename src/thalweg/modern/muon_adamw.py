"""Muon with AdamW for what is no matrix (after section 8.5)."""

import torch

from thalweg.adaptive.adam import adam
from thalweg.core.rule import Start, clock, rule
from thalweg.modern.muon import muon

_of_matrices = Start("zeros of a matrix", lambda theta, knobs: torch.zeros_like(theta) if theta.ndim > 1 else None)
_of_the_rest = Start("zeros of a vector", lambda theta, knobs: torch.zeros_like(theta) if theta.ndim < 2 else None)


@rule(per="tensor")
def muon_adamw(
    g, theta, buffer=_of_matrices, m=_of_the_rest, v=_of_the_rest, t=clock,
    *, lr=0.02, momentum=0.95, weight_decay=0.0, adam_lr=3e-4, beta1=0.9, beta2=0.95, eps=1e-10,
):  # fmt: skip
    """Muon and AdamW in one (Jordan 2024): matrices and kernels take Muon's step, biases and gains take AdamW's.

    The defaults are those of Jordan's MuonWithAuxAdam. There the caller sorts the parameters, and gives embeddings and
    the last layer to AdamW too; here the shape alone decides. Each part decays by its own lr. A schedule of lr is not
    one of adam_lr: give it its own.

    >>> theta = torch.ones(3)
    >>> delta, memory = muon_adamw.step({"g": theta, "theta": theta}, muon_adamw.start(theta), muon_adamw.knobs)
    >>> delta, memory["buffer"]
    (tensor([-0.0003, -0.0003, -0.0003]), None)
    """
    if g.ndim > 1:
        delta, buffer = muon(g, buffer, lr=lr, momentum=momentum)
        return delta - lr * weight_decay * theta, buffer, None, None, t + 1
    delta, m, v, t = adam(g, m, v, t, lr=adam_lr, beta1=beta1, beta2=beta2, eps=eps)
    return delta - adam_lr * weight_decay * theta, None, m, v, t
