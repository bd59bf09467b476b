"""Batches as people have them (dictionaries, tuples, what a tokenizer gives), as measurements take them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Loss, Network

Forward = Callable[[nn.Module, Any], Any]  # of the module and a batch: (outputs, targets), or the loss


class Examples:
    """A batch of any shape in place of a tensor of inputs: it is cut, joined and moved to float64 as a tensor is.

    Every tensor in it whose first dimension is that of the first one holds the examples; what else is in it stays.
    Raises DiagnosisError where there is none.

    >>> batch = Examples({"ids": torch.arange(6).view(3, 2), "mask": torch.ones(3, 2), "scale": 0.1})
    >>> len(batch), batch[1:].value["ids"].tolist()
    (3, [[2, 3], [4, 5]])
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        first = next((tensor for tensor in _tensors(value) if tensor.dim()), None)
        if first is None:
            raise DiagnosisError(
                f"a batch of {type(value).__name__} was given, without tensors to be seen: give (inputs, targets), a "
                "dictionary, or tensors in tuples of them"
            )
        self.device, self._n = first.device, len(first)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, part: Any) -> Examples:
        return Examples(_mapped(lambda x: x[part] if x.dim() and len(x) == self._n else x, self.value))

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the real numbers in it."""
        return next((tensor.dtype for tensor in _tensors(self.value) if tensor.is_floating_point()), None)

    @property
    def nbytes(self) -> int:
        """Of all tensors in it."""
        return sum(tensor.nbytes for tensor in _tensors(self.value))

    def clone(self) -> Examples:
        """A copy."""
        return Examples(_mapped(Tensor.clone, self.value))

    def double(self) -> Examples:
        """It with real numbers in float64."""
        return Examples(_mapped(lambda x: x.double() if x.is_floating_point() else x, self.value))

    def is_floating_point(self) -> bool:
        """No: it is not one tensor, with a gradient of its own."""
        return False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.cat:
            return NotImplemented
        batches = [each.value for each in args[0]]
        columns = zip(*map(_tensors, batches), strict=True)
        joined = iter([torch.cat(column) if column[0].dim() else column[0] for column in columns])
        return cls(_mapped(lambda _: next(joined), batches[0]))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for inside in _inside(value):
        yield from _tensors(inside)


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else vars(value).values() if _plain(value) else ()


def _plain(value: Any) -> bool:
    return hasattr(value, "__dataclass_fields__") and not isinstance(value, type)


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        new = {key: _mapped(change, inside) for key, inside in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return new
        other = copy.copy(value)  # what a tokenizer gives is more than a dictionary
        other.update(new)
        return other
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(change, inside) for inside in value))
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, inside) for inside in value)
    if _plain(value):
        other = copy.copy(value)
        for name, inside in vars(value).items():
            object.__setattr__(other, name, _mapped(change, inside))
        return other
    return value


class Called(nn.Module):
    """A module that is called by a function of the user's: its parts are the module's own, under the same names.

    `forward` gets the module and a batch. What it returns beside the outputs, the targets, is kept for the loss.
    """

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self.training = module.training
        self.__dict__["called"] = lambda value: forward(module, value)  # no part of it

    def forward(self, examples: Examples) -> Tensor:
        """The outputs, or the loss where the function gives that alone."""
        answer = self.__dict__["called"](examples.value)
        outputs, targets = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        if isinstance(outputs, Mapping) or not isinstance(outputs, Tensor):
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
            if not isinstance(loss, Tensor):
                raise DiagnosisError(
                    f"a batch came back as {type(outputs).__name__}, without a loss: give Monitor forward=, a function "
                    "of the module and a batch that returns (outputs, targets), or the loss"
                )
            outputs, targets = loss, None
        self.__dict__["targets"] = targets
        return outputs

    def loss(self, loss: Loss | None) -> Loss:
        """The loss of the outputs: that of the user where there are targets."""

        def of(outputs: Tensor, _: Tensor) -> Tensor:
            targets = self.__dict__["targets"]
            if targets is None:
                return outputs
            if loss is None:
                raise DiagnosisError("outputs and targets without a loss: give Monitor loss=, or return the loss alone")
            wide = outputs.dtype == torch.float64 and isinstance(targets, Tensor) and targets.dtype == torch.float32
            return loss(outputs, targets.double() if wide else targets)

        return of


def network_of(module: nn.Module, loss: Loss | None, forward: Forward | None, batch: Any) -> Network:
    """A network that only looks at a module, for batches like this one."""
    if forward is None and loss is not None and _pair(batch):
        return Network(module, loss, own=False)
    called = Called(module, forward or (_called if _pair_of_any(batch) else _asked))
    return Network(called, called.loss(loss), own=False)


def batch_of(batch: Any, network: Network) -> Batch:
    """A batch as the network takes it."""
    if not isinstance(network.module, Called):
        return Batch(batch[0].detach(), batch[1].detach())
    examples = Examples(_mapped(Tensor.detach, batch))
    return Batch(cast(Tensor, examples), torch.zeros(len(examples), device=examples.device))


def _pair(batch: Any) -> bool:
    return _pair_of_any(batch) and all(isinstance(part, Tensor) for part in batch)


def _pair_of_any(batch: Any) -> bool:
    return isinstance(batch, list | tuple) and len([*batch]) == 2  # len() of a Batch is that of its examples


def _called(module: nn.Module, batch: Any) -> Any:
    return module(batch[0]), batch[1]


def _asked(module: nn.Module, batch: Any) -> Any:
    """As libraries for language models have it: by name, and the answer has a loss."""
    return module(**batch) if isinstance(batch, Mapping) else module(batch)
