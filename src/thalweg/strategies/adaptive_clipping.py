"""Clipping relative to the weights (section 10.11.1, and since)."""

import torch

from thalweg.core.rule import combinator, maximum, minimum


@combinator(per="tensor")
def clipped_adaptively(inner, g, theta, *, clip_ratio=0.01, clip_eps=1e-3):
    """Adaptive gradient clipping (Brock et al. 2021): a unit's gradient is at most a part of its weights.

    That part is clip_ratio, of norms. A unit is a row of a matrix, or the kernel of an output channel; a vector is one.
    Its weights count as clip_eps at least. The paper leaves the last layer as it is.

    >>> from thalweg import sgd
    >>> seen = {"g": torch.tensor([[3.0, 4.0], [0.0, 0.1]]), "theta": torch.tensor([[0.0, 10.0], [0.0, 100.0]])}
    >>> clipped_adaptively(sgd).step(seen, {}, {"lr": 1.0, "clip_ratio": 0.01, "clip_eps": 1e-3})[0]
    tensor([[-0.0600, -0.0800],
            [-0.0000, -0.1000]])
    """
    longest = clip_ratio * maximum(_unit_norms(theta), clip_eps)
    return inner(g=g * minimum(longest / _unit_norms(g), 1.0).to(g.dtype))


def _unit_norms(x: torch.Tensor) -> torch.Tensor:
    over = tuple(range(1, x.ndim)) if x.ndim > 1 else None
    # In double precision, because squares of a finite float32 gradient overflow.
    norms: torch.Tensor = torch.linalg.vector_norm(x, dim=over, keepdim=x.ndim > 1, dtype=torch.float64)
    return norms
