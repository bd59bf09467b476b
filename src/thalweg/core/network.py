"""A module as one vector: theta is every parameter, end to end, as in the book."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.errors import NetworkError

Loss = Callable[[Tensor, Tensor], Tensor]

# What torch.autograd.grad calls (retain graph, create graph, inputs, unused allowed, accumulate) once it has looked at
# its arguments, which takes it longer than a small model's whole backward pass may.
_backward = torch.autograd.Variable._execution_engine.run_backward


class Batch(NamedTuple):
    """Examples to learn from: `inputs: (b, ...)`, `targets: (b, ...)`."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


class Network:
    """A module whose trainable parameters are views of one vector `theta: (n,)`, and the loss it is trained on.

    Whatever writes to `theta` trains the module, and the other way round. Tied weights stand in it once; frozen
    ones (`requires_grad=False`) not at all. Moving the module to another device or dtype afterwards breaks
    the views: move it first. With `own=False` the module is only looked at: its parameters stay where they are, and
    theta is a copy of them as they were then.

    Raises NetworkError for a module without trainable parameters, or with parameters of several dtypes or devices.

    >>> network = Network(nn.Linear(3, 1), nn.functional.mse_loss)
    >>> network.theta.shape
    torch.Size([4])
    >>> loss, g = network.gradient(Batch(torch.ones(5, 3), torch.ones(5, 1)))
    >>> g.shape
    torch.Size([4])
    """

    def __init__(self, module: nn.Module, loss: Loss, *, own: bool = True) -> None:
        self.module = module
        self.loss = loss
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise NetworkError(f"{type(module).__name__} has no trainable parameters: there is nothing to optimise")
        for what, kinds in (
            ("dtypes", dict.fromkeys(p.dtype for _, p in named)),
            ("devices", dict.fromkeys(p.device for _, p in named)),
        ):
            if len(kinds) > 1:
                example = "; ".join(f"{next(n for n, p in named if k in (p.dtype, p.device))} is {k}" for k in kinds)
                raise NetworkError(
                    f"the parameters have several {what} ({example}): call module.to(...) with one first"
                )
        self.names = [name for name, _ in named]
        self.parameters = tuple(p for _, p in named)
        self.shapes = [p.shape for p in self.parameters]
        self.sizes = [p.numel() for p in self.parameters]
        self.theta = torch.cat([p.detach().reshape(-1) for p in self.parameters])  # (n,)
        for parameter, view in zip(self.parameters, self.views(self.theta).values(), strict=True) if own else ():
            parameter.data = view
        self._g = torch.empty_like(self.theta)
        self._pieces = list(self.views(self._g).values())
        self._gradients: list[Tensor] = []
        self._one = torch.ones((), dtype=self.theta.dtype, device=self.theta.device)
        self.sparse = any(getattr(part, "sparse", False) for part in module.modules())  # embeddings with such gradients
        self.rungs: dict[str, str] = {}  # what the ladder of derivatives found to work on this module

    def views(self, theta: Tensor) -> dict[str, Tensor]:
        """`theta: (n,)` cut into the parameters, by name, in their shapes."""
        pieces = torch.split(theta, self.sizes)
        return {n: piece.view(s) for n, piece, s in zip(self.names, pieces, self.shapes, strict=True)}

    def f(self, theta: Tensor, batch: Batch) -> Tensor:
        """The loss at `theta: (n,)` on a batch, differentiable in theta; module and buffers stay as they are."""
        return self.on(batch)(theta)

    def on(self, batch: Batch) -> OnBatch:
        """The loss on a batch as a function of theta, with its parts: what a rule that sees f is handed."""
        return OnBatch(self, batch)

    def gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss on a batch and its gradient `g: (n,)`, at the module's own theta; buffers (BatchNorm) move on.

        `g` is one buffer, written anew by each call: clone it to keep it.
        """
        loss = self.loss(self.module(batch.inputs), batch.targets)
        if loss.dim():
            raise NetworkError(f"the loss gives {tuple(loss.shape)} for a batch: it must give one number (a mean)")
        if self._one.dtype != loss.dtype or self._one.device != loss.device:
            self._one = torch.ones_like(loss)
        # The last gradients are kept until here, so that the new ones take their place: given back to the system and
        # asked for again, they would cost a large model a fifth of its step in page faults.
        self._gradients = []
        found: tuple[Tensor | None, ...] = _backward((loss,), (self._one,), False, False, self.parameters, True, False)
        if self.sparse:
            found = tuple(g.to_dense() if g is not None and g.is_sparse else g for g in found)
        # None is for a parameter that this loss does not depend on.
        self._gradients = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self._pieces, strict=True)]
        torch._foreach_copy_(self._pieces, self._gradients)
        return loss.detach(), self._g

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """What the module answers in evaluation mode; each of its parts is then in the mode that it was in."""
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        answer: Tensor = self.module(inputs)
        for part, training in modes:
            part.training = training
        return answer

    def state(self) -> dict[str, Tensor]:
        """Copies of theta and of the module's buffers: what `load` takes back."""
        return {"theta": self.theta.clone(), **{f"buffer.{k}": b.clone() for k, b in self.module.named_buffers()}}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Goes back to a state. Raises NetworkError where it is another network's."""
        expected = {"theta": self.theta, **{f"buffer.{k}": b for k, b in self.module.named_buffers()}}
        for name, mine in expected.items():
            given = state.get(name)
            if given is None or given.shape != mine.shape or given.dtype != mine.dtype:
                was = "nothing" if given is None else f"{tuple(given.shape)} {given.dtype}"
                raise NetworkError(
                    f"the state holds {was} for {name}, the model has {tuple(mine.shape)} {mine.dtype}: "
                    "it was saved from another model"
                )
        for name, mine in expected.items():
            mine.copy_(state[name])


class OnBatch:
    """The loss of a network on one batch, an objective: f = loss_of(outputs(theta)), differentiable in theta.

    Parameters and buffers of the module stay as they are. What the module draws at random (dropout) is drawn as it was
    when this was made, at each evaluation: it is one function. Where the loss is a mean of squares, `residuals` are
    there too.

    >>> network = Network(nn.Linear(3, 1), nn.functional.mse_loss)
    >>> f = network.on(Batch(torch.ones(5, 3), torch.ones(5, 1)))
    >>> torch.testing.assert_close(f(network.theta), f.residuals(network.theta).square().sum() / 2)
    """

    def __init__(self, network: Network, batch: Batch) -> None:
        self.network, self.batch = network, batch
        self.module, self.loss, self.rungs = network.module, network.loss, network.rungs
        self.constant = False  # whether it is the same function of theta at the next step: no dropout, no buffers
        self._random = [torch.get_rng_state()]
        if network.theta.is_cuda:
            self._random.append(torch.cuda.get_rng_state(network.theta.device))
        if is_mean_of_squares(network.loss):
            self.residuals = self._residuals

    def __call__(self, theta: Tensor) -> Tensor:
        """The loss at `theta: (n,)`."""
        try:
            return self.loss_of(self.outputs(theta))
        except RuntimeError as error:
            if _RECOMPUTED not in str(error):
                raise
        loss: Tensor = _AtOnce.apply(theta, self)  # type: ignore[no-untyped-call]
        return loss

    def outputs(self, theta: Tensor) -> Tensor:
        """What the module answers at `theta: (n,)`, in the mode in which it is; in float64 where theta is that."""
        with torch.autograd.graph.disable_saved_tensors_hooks(_RECOMPUTED):
            found: Tensor = self._run(self.module, theta, "", self._wide(self.batch.inputs, theta))
        return found

    def loss_of(self, outputs: Tensor) -> Tensor:
        """The loss of outputs for this batch."""
        return self.loss(outputs, self._wide(self.batch.targets, outputs))

    def value_and_gradient_at_once(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the gradient, found while the module's parameters are theta's, on the way back too."""
        with torch.enable_grad():
            leaf = theta.detach().clone().requires_grad_()

            def there_and_back() -> tuple[Tensor, Tensor]:
                loss = self.loss_of(self.module(self._wide(self.batch.inputs, theta)))
                return loss.detach(), torch.autograd.grad(loss, leaf, materialize_grads=True)[0]

            found: tuple[Tensor, Tensor] = self._run(_Around(self.module), leaf, "module.", there_and_back)
        return found

    def _run(self, module: nn.Module, theta: Tensor, prefix: str, what: Any) -> Any:
        """Calls a module with parameters of theta, copies of the buffers, and the generators as they were."""
        network = self.network
        parameters = network.views(theta)
        if network.sparse and theta.requires_grad:
            parameters = {name: _Dense.apply(view) for name, view in parameters.items()}  # type: ignore[no-untyped-call]
        if theta.dtype != network.theta.dtype:
            named = self.module.named_parameters()
            parameters |= {n: self._wide(p, theta) for n, p in named if n not in parameters}  # frozen ones
        buffers = {name: self._wide(buffer, theta).clone() for name, buffer in self.module.named_buffers()}
        state = {f"{prefix}{name}": value for name, value in {**parameters, **buffers}.items()}
        with torch.random.fork_rng(devices=[theta.device] if theta.is_cuda else []):
            torch.set_rng_state(self._random[0])
            if theta.is_cuda:
                torch.cuda.set_rng_state(self._random[1], theta.device)
            return torch.func.functional_call(module, state, (what,), tie_weights=True)

    def _wide(self, tensor: Tensor, other: Tensor) -> Tensor:
        """A tensor of the network's dtype in float64 where that other one is."""
        return tensor.double() if other.dtype == torch.float64 and tensor.dtype == self.network.theta.dtype else tensor

    def part(self, indices: Tensor) -> OnBatch:
        """The same on some of the batch's examples."""
        return OnBatch(self.network, Batch(self.batch.inputs[indices], self.batch.targets[indices]))

    def _residuals(self, theta: Tensor) -> Tensor:
        z = self.outputs(theta)
        r: Tensor = (2 / z.numel()) ** 0.5 * (z - self.batch.targets).reshape(-1)
        return r


def is_mean_of_squares(loss: Loss) -> bool:
    """Whether a loss is the mean of squared differences."""
    return loss is nn.functional.mse_loss or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean")


# Parameters are theta's while the module runs. What it computes anew on the way back (torch.utils.checkpoint) would be
# of its own parameters, and wrong without a word: then the way back is taken before they are put back.
_RECOMPUTED = (
    "the module computes activations anew on the way back (torch.utils.checkpoint), when its parameters are no longer "
    "theta: second derivatives are not to be had in one piece"
)


class _Around(nn.Module):
    """Calls something while it is called itself, so that the parameters of the module inside are then those given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


class _AtOnce(torch.autograd.Function):
    """A value that knows its gradient, and no more."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, f: OnBatch) -> Tensor:
        loss, ctx.g = f.value_and_gradient_at_once(theta)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return d * ctx.g, None


class _Dense(torch.autograd.Function):
    """The tensor itself; a sparse gradient becomes dense, for it cannot be put together with others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.to_dense() if g.is_sparse else g
