"""The rule behind an optimizer, with its knobs and what it remembers now: read, and left as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import DiagnosisError
from thalweg.core.rule import Memory, Rule
from thalweg.execution.knobs import unfolded
from thalweg.execution.state import Layout, read_numbers
from thalweg.execution.torch_optim import Optimizer
from thalweg.optim import torchs

APART = {"params", "param_names", "weight_decay", "initial_lr"}  # what may differ between groups: not what steps are


class Ruled(NamedTuple):
    """A rule with its knobs, and its memory for a vector of parameters."""

    rule: Rule
    knobs: dict[str, Any]
    memory: Memory


def plain_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside one that a library has wrapped."""
    while isinstance(inside := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inside
    return optimizer


def lr_of(optimizer: torch.optim.Optimizer) -> float:
    """The lr of the first group; NaN where it has none."""
    return float(optimizer.param_groups[0].get("lr", torch.nan))


def ruled(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Ruled:
    """The rule that takes the steps of these parameters, one of torch's own optimizers or of `thalweg.optim`.

    Raises DiagnosisError for another optimizer, for groups with settings of their own, and before the first step.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.Adam([weight], lr=0.1)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> found = ruled(optimizer, [weight])
    >>> found.rule.name, found.knobs["lr"], found.memory["t"]
    ('adam', 0.1, 1)
    """
    group = _group(optimizer)
    own = optimizer if isinstance(optimizer, Optimizer) else _torchs(optimizer)
    rule, layout = own.rule_of(group), own.layout
    if rule.per != "element":
        raise DiagnosisError(f"{rule.name} looks at several parameters together: its stability limit cannot be told")
    given = unfolded(group, rule.knobs)
    knobs = rule.with_defaults({k: _number(given[k]) for k in rule.knobs if k in given})
    states = [optimizer.state.get(p, {}) for p in parameters]
    memory: Memory = {}
    if rule.remembers:
        memory |= read_numbers(rule, parameters[0], states[0], layout, knobs, as_tensors=False)
        memory |= {n: _whole(n, states, layout) for n, start in rule.remembers.items() if not start.scalar}
    return Ruled(rule, knobs, memory)


def _group(optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
    first, *others = optimizer.param_groups
    for other in others:
        for name in first.keys() - APART:
            if other.get(name) != first[name]:
                raise DiagnosisError(
                    f"the parameter groups differ in {name} ({first[name]}, {other.get(name)}): one stability limit "
                    "for all cannot be told"
                )
    return first


def _torchs(optimizer: torch.optim.Optimizer) -> Optimizer:
    kind = type(optimizer)
    ours = getattr(torchs, kind.__name__, None)
    if not kind.__module__.startswith("torch.optim") or ours is None:
        raise DiagnosisError(f"the rule behind {kind.__name__} is not known: its stability limit cannot be told")
    found: Optimizer = ours.__new__(ours)  # asked only for what follows from a group's settings
    return found


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else value


def _whole(name: str, states: Sequence[Mapping[str, Any]], layout: Layout) -> Tensor:
    """What is remembered of each parameter, end to end: (n,)."""
    key = layout.get(name, name) or name
    if any(not isinstance(state.get(key), Tensor) for state in states):
        raise DiagnosisError(f"the optimizer remembers no {key} of some parameter yet: it has not taken a step of all")
    return torch.cat([state[key].detach().reshape(-1) for state in states])
