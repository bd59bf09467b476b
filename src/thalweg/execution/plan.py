"""How the parameters of one group step: in cohorts, each by one execution; made anew where something has changed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError, GradientError
from thalweg.core.rule import Memory, Rule
from thalweg.execution.closure import Objective
from thalweg.execution.cohort import Cohort, is_dtensor
from thalweg.execution.knobs import Places
from thalweg.execution.memory import flatten
from thalweg.execution.state import Layout, State, begin, read_numbers

_is = operator.is_


class Plan:
    """The parameters of a group that have a gradient now, ready to step.

    Those without stay as they are; a rule that looks at the whole vector sees a zero gradient there. Raises
    GradientError where a sparse or complex gradient meets a rule that cannot take it; nothing is changed then.
    """

    def __init__(
        self,
        rule: Rule,
        group: Mapping[str, Any],
        layout: Layout,
        places: Places,
        sparse: str | None,
        execution: str | None,
        flat: bool,
    ) -> None:
        self.rule, self.layout, self.sparse, self.execution, self.flat = rule, layout, sparse, execution, flat
        self.spec = [(knob, *places.get(knob, (knob, None))) for knob in rule.knobs]
        self.params: list[Tensor] = list(group["params"])
        self.capturable = bool(group.get("capturable"))
        whole = rule.per == "vector"
        self.without = [] if whole else [p for p in self.params if p.grad is None]
        self.with_sparse = [p for p in self.params if p.grad is not None and p.grad.layout != torch.strided]
        idle = {id(p) for p in (*self.without, *self.with_sparse)}
        self.dense = [p for p in self.params if id(p) not in idle]
        if whole and all(p.grad is None for p in self.params):
            self.dense, self.without = [], self.params
        self.cohorts: list[Cohort] = []
        self.grads: list[list[Tensor]] = []

    def fits(self, group: Mapping[str, Any], rule: Rule) -> bool:
        """Whether this plan is still right for the group; it then holds the gradients to step with."""
        params = group["params"]
        if rule is not self.rule or len(params) != len(self.params) or not all(map(_is, params, self.params)):
            return False
        if any(p.grad is not None for p in self.without):
            return False
        self.grads = []
        for cohort in self.cohorts:
            grads = cohort.ready()
            if grads is None:
                return False
            self.grads.append(grads)
        return True

    def check(self, who: str) -> None:
        """Raises GradientError for gradients that the rule cannot take."""
        if self.with_sparse and self.sparse is None:
            raise GradientError(
                f"{who} does not support sparse gradients, and a parameter of shape {tuple(self.with_sparse[0].shape)} "
                "has one: please consider SparseAdam instead, or sparse=False in its embedding"
            )
        if self.sparse == "only" and self.dense:
            raise GradientError(f"{who} does not support dense gradients, please consider Adam instead")
        if self.rule.per == "vector" and len({(p.device, p.dtype) for p in self.dense}) > 1:
            kinds = ", ".join(sorted({f"{p.dtype} on {p.device}" for p in self.dense}))
            raise AlgorithmError(f"{who} looks at all parameters at once, and they are {kinds}: make them one kind")
        for p in (*self.dense, *self.with_sparse):
            if p.is_complex() and self.rule.per != "element":
                raise GradientError(f"{who} does not support complex parameters: it looks at a whole {self.rule.per}")
            if is_dtensor(p) and self.rule.per != "element":
                raise AlgorithmError(
                    f"{who} looks at a whole {self.rule.per}, and a parameter of shape {tuple(p.shape)} is spread over "
                    "processes: take an elementwise rule, such as AdamW, or DistributedDataParallel"
                )

    def form(self, states: Mapping[Tensor, State], knobs: Mapping[str, Any]) -> None:
        """Starts what is not remembered yet, and forms the cohorts."""
        for params, sparse in ((self.dense, False), (self.with_sparse, True)):
            if not params:
                continue
            mine = [states[p] for p in params]
            # What is known from the rest must be read before the rest is begun.
            early = [
                read_numbers(self.rule, p, s, self.layout, dict(knobs), False)
                for p, s in zip(params, mine, strict=True)
            ]
            begin(self.rule, params, mine, self.layout, dict(knobs))
            if self.flat and self.rule.per == "element" and not sparse:
                flatten(params, mine)
            sets: dict[Any, list[int]] = {}
            for k, p in enumerate(params):
                kind = () if self.rule.per == "vector" else (p.device, p.dtype, tuple(early[k].values()))
                sets.setdefault(kind, []).append(k)
            for members in sets.values():
                first = members[0]
                numbers = early[first]
                if self.capturable:
                    numbers = read_numbers(self.rule, params[first], mine[first], self.layout, dict(knobs), True)
                self.cohorts.append(
                    Cohort(
                        self.rule,
                        [params[k] for k in members],
                        [mine[k] for k in members],
                        numbers,
                        self.layout,
                        ("rows" if self.sparse != "dense" else "eager") if sparse else self.execution,
                        torch.sparse_coo if sparse else torch.strided,
                    )
                )

    def knobs(self, group: Mapping[str, Any], differentiable: bool = False) -> Memory:
        """The rule's knobs, out of the group; tensors as numbers, unless they lie on a GPU or are differentiated."""
        values = {}
        for knob, key, index in self.spec:
            if key not in group:
                values[knob] = self.rule.knobs[knob]  # one that torch does not have
                continue
            value = group[key] if index is None else group[key][index]
            if type(value) is not float and not differentiable:
                value = self._number(knob, value)
            values[knob] = value
        return values

    def _number(self, knob: str, value: Any) -> Any:
        if value is None:  # torch's sign for the resolution of the parameters' dtype
            return torch.finfo(self.params[0].dtype if self.params else torch.float32).eps
        if not isinstance(value, Tensor):
            return value
        if value.numel() != 1:
            raise AlgorithmError(f"{knob} is a tensor of shape {tuple(value.shape)}: an optimizer takes one number")
        return value if value.device.type != "cpu" or self.capturable else value.item()

    def advance(self, group: Mapping[str, Any], closure: Any) -> None:
        """One step."""
        knobs = self.knobs(group)
        for cohort, grads in zip(self.cohorts, self.grads, strict=True):
            f = Objective(closure, cohort.params) if "f" in self.rule.sees else None
            cohort.advance(grads, knobs, f)

    def advance_differentiably(self, group: Mapping[str, Any]) -> None:
        """One step with a graph through it: memory and numbers are replaced, the parameters added to in place."""
        knobs = self.knobs(group, differentiable=True)
        for cohort, grads in zip(self.cohorts, self.grads, strict=True):
            cohort.advance_differentiably(grads, knobs)

    def flush(self) -> None:
        """Writes the numbers into the states."""
        for cohort in self.cohorts:
            cohort.flush()

    def answers(self, group: Mapping[str, Any], states: Mapping[Tensor, State]) -> Iterator[tuple[Tensor, Tensor]]:
        """Of a plan not formed yet: the parameters that have a state, each with what the rule answers with for it."""
        if self.rule.answers is None:
            return
        self.dense, self.with_sparse = [p for p in self.params if states.get(p)], []  # with a gradient now or without
        knobs = self.knobs(group)
        self.form(states, knobs)
        for cohort in self.cohorts:
            yield from cohort.answers(knobs)
