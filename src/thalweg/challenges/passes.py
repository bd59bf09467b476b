"""A pass through a module there and back, with its layers watched (section 6.5): what signals and units are seen by."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.errors import DiagnosisError, NetworkError
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import looked_into, undisturbed

Saw = Callable[[str, nn.Module, Tensor], None]  # a name, a part and what it answered


class Passed(NamedTuple):
    """What a pass found: the loss and its gradient by each parameter that it depends on."""

    loss: float
    gradients: dict[str, Tensor]


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """The parts that have weights of their own, by name: linear, convolutional, recurrent, embedding, attention.

    >>> list(layers(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))))
    ['0', '3']
    """
    found: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        if "parametrizations" not in name.split(".") and _weighs(part):  # what those answer is a weight, not a signal
            found[name] = part
    return found


def _weighs(part: nn.Module) -> bool:
    """Whether it has weights; what only holds some beside its layers (a table of positions) is no layer."""
    if isinstance(part, nn.RNNBase | nn.MultiheadAttention) or hasattr(part, "parametrizations"):
        return True
    own = any(p is not None and p.dim() > 1 for p in part._parameters.values())
    return own and not any(_weighs(child) for child in part.children())


@contextlib.contextmanager
def watched(module: nn.Module, parts: dict[str, nn.Module], saw: Saw) -> Iterator[nn.Module]:
    """Tells of each answer of some parts while the module is called; it is afterwards as it was.

    A part that answers with several tensors (recurrence, attention) is seen by its first. `saw` gets the live tensor:
    a hook on it hears its gradient. The sequences that a recurrent part is given are told of before, as "name:in".
    """

    def hear_before(name: str) -> Callable[[nn.Module, Any], None]:
        def hear(part: nn.Module, given: Any) -> None:
            if given and isinstance(given[0], Tensor):
                saw(f"{name}:in", part, given[0])

        return hear

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hear(part: nn.Module, _: Any, answer: Any) -> None:
            tensor = _first(answer)
            if tensor is not None and tensor.is_floating_point():
                saw(name, part, tensor)

        return hear

    with undisturbed(module):
        for name, part in parts.items():
            part.register_forward_hook(hook(name))
            if isinstance(part, nn.RNNBase):
                part.register_forward_pre_hook(hear_before(name))
        yield module


def _first(answer: Any) -> Tensor | None:
    while isinstance(answer, tuple | list) and answer:
        answer = answer[0]
    data = getattr(answer, "data", None)  # a packed sequence holds one tensor too
    return answer if isinstance(answer, Tensor) else data if isinstance(data, Tensor) else None


def there_and_back(network: Network, batch: Batch, saw: Saw) -> Passed:
    """Calls a network on a batch and goes back, and tells of the answers of its `layers`, and of "input".

    Raises DiagnosisError for a batch of nothing, a loss that is not finite, and a module that cannot be gone back
    through; NetworkError for a loss that is not one number.

    >>> seen = []
    >>> network = Network(nn.Sequential(nn.Linear(2, 1)), nn.functional.mse_loss)
    >>> passed = there_and_back(network, Batch(torch.ones(3, 2), torch.ones(3, 1)), lambda name, *_: seen.append(name))
    >>> seen, list(passed.gradients)
    (['input', '0'], ['0.weight', '0.bias'])
    """
    if len(batch) == 0:
        raise DiagnosisError("a batch without examples was given: give at least one")
    module = looked_into(network.module)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    inputs, leaves = batch.inputs, list[Tensor](named.values())
    with torch.inference_mode(False), torch.enable_grad(), watched(module, layers(module), saw):
        if inputs.is_floating_point():
            leaf = inputs.detach().clone().requires_grad_()
            leaves.append(leaf)
            inputs = leaf.clone()  # modules may write to their inputs, not to a leaf
            saw("input", module, inputs)
        loss = network.loss(module(inputs), batch.targets)
        if loss.dim():
            raise NetworkError(f"the loss gives {tuple(loss.shape)} for a batch: it must give one number (a mean)")
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DiagnosisError(f"the loss is {value} on a batch: there is no gradient to go back with")
        found = _back(loss, leaves)
    pairs = zip(named, found[: len(named)], strict=True)
    return Passed(value, {name: g.to_dense() if g.is_sparse else g for name, g in pairs if g is not None})


def _back(loss: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:
        raise DiagnosisError("the loss does not depend on any trainable parameter: is its output detached?")
    try:
        return torch.autograd.grad(loss, leaves, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant=True" in str(error):
            raise DiagnosisError(
                "the module uses reentrant checkpoints, whose gradients cannot be asked for: "
                "use torch.utils.checkpoint with use_reentrant=False"
            ) from error
        raise
