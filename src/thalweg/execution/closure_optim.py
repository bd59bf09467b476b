"""A rule that evaluates the objective itself, as a torch.optim.Optimizer: all its parameters are one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thalweg.core.errors import AlgorithmError, KnobError, StateError
from thalweg.core.objective import Evaluations
from thalweg.core.rule import Rule
from thalweg.core.status import Status
from thalweg.execution.closure import Objective, Rescaled
from thalweg.execution.state import by_names, with_saved_dtypes

STOPPING: dict[str, Any] = {"max_iter": 1, "max_eval": None, "tolerance_grad": 0.0, "tolerance_change": 0.0}


class ClosureOptimizer(torch.optim.Optimizer):
    """A rule that sees f, behind the face of torch.optim: `step(closure)`, the parameters of all groups one vector.

    A step takes up to `max_iter` steps of the rule on what the closure computes, and ends before where the rule stops,
    after `max_eval` evaluations, where the largest component of the gradient is at most `tolerance_grad` times the
    smaller of 1 and the first one's, or where the loss changes relatively by at most `tolerance_change`. `status` then
    says why. Groups may have an lr each: theta is then measured in units of the root of lr (relative to the first
    group's). All other settings are one for all. Parameters may lie on several devices and be complex.

    The state is that of the whole vector, in the state of the first parameter. `module` and `loss` are for algorithms
    that look at layers.

    Raises KnobError for a setting that there is not, AlgorithmError for a step without a closure.

    >>> from thalweg.second_order.bfgs import bfgs
    >>> x = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    >>> optimizer = ClosureOptimizer([x], bfgs, max_iter=100)
    >>> loss = optimizer.step(lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
    >>> x.detach().round(decimals=3), optimizer.status.name
    (tensor([1., 1.], dtype=torch.float64), 'CONVERGED')
    """

    _objective: ClassVar[type[Objective]] = Objective  # what a closure is made into

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        maximize: bool = False,
        module: nn.Module | None = None,
        loss: Any = None,
        **settings: Any,
    ) -> None:
        self._rule, self._module, self._loss = rule, module, loss
        self._rungs: dict[str, str] = {}
        known = {**STOPPING, **rule.knobs}
        for name, value in settings.items():
            if name not in known:
                names = ", ".join(known)
                raise KnobError(f"{type(self).__name__} has no setting '{name}': those of {rule.name} are {names}")
            if name != "max_eval" and not isinstance(value, Tensor) and not value >= 0:
                raise AlgorithmError(f"{type(self).__name__}: {name} is {value}: it cannot be negative")
        super().__init__(params, {**known, **settings, "maximize": maximize})

    @property
    def status(self) -> Status:
        """How the last step ended."""
        return Status(self._memory().get("status", Status.GOING_ON))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps of the rule on the loss that the closure computes; it returns the loss before them."""
        if closure is None:
            raise AlgorithmError(f"{type(self).__name__} evaluates the objective itself: call step(closure)")
        settings = self._settings()
        objective = self._objective(closure, self._params(), self._module, self._loss, self._rungs)
        scale, sign = self._scale(objective), -1.0 if settings["maximize"] else 1.0
        plain = scale is None and sign == 1.0
        f = Evaluations(
            objective if plain else Rescaled(objective, 1.0 if scale is None else scale, sign),
            most=math.inf if settings["max_eval"] is None else settings["max_eval"],
        )
        theta = objective.theta if scale is None else objective.theta / scale
        if scale is not None:
            objective.put(scale * theta)  # bit by bit where f is evaluated
        value, g = f.value_and_gradient(theta)
        for p, piece in zip(objective.params, objective.pieces(g if plain else sign * g), strict=True):
            p.grad = piece.to(p)
        loss = sign * value
        knobs = {name: settings[name] for name in self._rule.knobs}
        held = self._memory()
        memory = {name: held.get(name) for name in self._rule.remembers} if held else self._rule.start(theta, **knobs)
        first = held.get("first_gradient", float(g.abs().max()))
        for k in range(settings["max_iter"]):
            if float(g.abs().max()) <= settings["tolerance_grad"] * min(1.0, first):
                memory["status"] = int(Status.CONVERGED)
                break
            with torch.no_grad():
                delta, memory = self._rule.step({"g": g, "theta": theta, "f": f}, memory, knobs)
                theta = theta + delta
                objective.put(theta if scale is None else scale * theta)
            if f.exhausted:
                memory["status"] = int(Status.EVALUATIONS)
                break
            if memory.get("status", Status.GOING_ON) != Status.GOING_ON or k + 1 == settings["max_iter"]:
                break
            before = value
            value, g = f.value_and_gradient(theta)
            moved = bool(delta.any())
            if moved and abs(value - before) <= settings["tolerance_change"] * torch.maximum(abs(value), abs(before)):
                memory["status"] = int(Status.CONVERGED)
                break
        self.state[self._params()[0]] = {**memory, "first_gradient": first}
        return loss

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _memory(self) -> dict[str, Any]:
        return dict(self.state.get(self._params()[0], {}))

    def _settings(self) -> dict[str, Any]:
        first, names = self.param_groups[0], [*STOPPING, *self._rule.knobs, "maximize"]
        for group in self.param_groups[1:]:
            for name in names:
                if name != "lr" and group[name] != first[name]:
                    raise AlgorithmError(
                        f"{type(self).__name__} has one {name} for all parameters, as they are one vector: the groups "
                        f"say {first[name]} and {group[name]}"
                    )
        return {
            name: value.item() if isinstance(value := first[name], Tensor) and value.dim() == 0 else value
            for name in names
        }

    def _scale(self, objective: Objective) -> Tensor | None:
        """The units of theta, where the groups' learning rates differ."""
        lrs = [float(group.get("lr", 1.0)) for group in self.param_groups]
        if len(set(lrs)) == 1:
            return None
        if min(lrs) <= 0:
            raise AlgorithmError(f"the groups have the learning rates {lrs}: leave parameters that stay out of them")
        like = objective.like
        parts = [
            like.new_full((p.numel() * (2 if p.is_complex() else 1),), (lr / lrs[0]) ** 0.5)
            for lr, group in zip(lrs, self.param_groups, strict=True)
            for p in group["params"]
        ]
        return torch.cat(parts)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a state_dict of the same rule; raises StateError for another's, and nothing has changed then."""
        ordered = by_names(dict(state_dict), self.param_groups)
        for state in ordered["state"].values():
            foreign = sorted(state.keys() - {*self._rule.remembers, "first_gradient"})
            if foreign:
                raise StateError(
                    f"the state_dict holds {', '.join(foreign)}, which {self._rule.name} does not remember: it was "
                    "saved by another algorithm"
                )
        super().load_state_dict(ordered)
        self.state = with_saved_dtypes(self.state, ordered, self.param_groups)
