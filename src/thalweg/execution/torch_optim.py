"""Any rule as a torch.optim.Optimizer: groups, state_dict, hooks, closures, schedulers, as torch's own classes have."""

from __future__ import annotations

import contextlib
import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as torchs

from thalweg.core.errors import AlgorithmError, KnobError
from thalweg.core.rule import Rule
from thalweg.execution.cohort import EXECUTIONS, local
from thalweg.execution.knobs import PLACES, Places, Schedules, folded, split_schedules, unfolded
from thalweg.execution.memory import flat_gradients, rehome
from thalweg.execution.plan import Plan
from thalweg.execution.state import Layout, State, by_names, check_loaded, with_saved_dtypes
from thalweg.strategies.maximised import maximised


class Optimizer(torch.optim.Optimizer):
    """A rule, or an algorithm of the catalogue, behind the face of torch.optim.

    `params` are tensors, groups or (name, tensor) pairs; knobs are given by name, those of a pair of betas as `betas`.
    A knob may be a function of the step, counted from 0: a schedule that resumes where the state_dict says.
    `execution` is "kernel", "fused", "compile" or "eager"; None chooses by device. `flatten=True` makes the parameters
    of a group views of one vector, and `zero_grad` then keeps their gradients in another. `eval()` puts the answer of
    an averaged rule into the parameters, `train()` takes it out again.

    Raises KnobError (a TypeError) for a knob that the rule does not have, AlgorithmError (a ValueError) for
    gradients that it cannot take; the optimizer is then as it was.

    >>> from thalweg import adam, clipped
    >>> parameter = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = Optimizer([parameter], clipped(adam), lr=0.5, clip_norm=1.0)
    >>> parameter.grad = torch.ones(2)
    >>> optimizer.step()
    >>> parameter
    Parameter containing:
    tensor([0.5000, 0.5000], requires_grad=True)
    """

    layout: ClassVar[Layout] = {}
    places: ClassVar[Places] = PLACES

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        execution: str | None = None,
        flatten: bool = False,
        **knobs: Any,
    ) -> None:
        self._rule = rule
        given = unfolded(knobs, rule.knobs)
        for knob in given:
            if knob not in rule.knobs:
                names = ", ".join(folded(rule.knobs))
                raise KnobError(f"{type(self).__name__} has no knob '{knob}': the knobs of {rule.name} are {names}")
        self._accept(execution, flatten)
        values, schedules = split_schedules(folded(rule.with_defaults(given)))
        _refuse_negative(type(self).__name__, values)
        flags = {"maximize": maximize, "differentiable": differentiable, "capturable": capturable}
        super().__init__(params, {**values, **flags})
        self._finish(schedules)

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """The rule that a group's settings ask for."""
        return _maximised(self._rule) if group.get("maximize") else self._rule

    def sparse_of(self, group: Mapping[str, Any]) -> str | None:
        """What becomes of sparse gradients: only the "rows" that have one are looked at, or they are made "dense".

        "only" is for rows and nothing else; None refuses them.
        """
        return None

    # Set up

    def _accept(self, execution: str | None, flatten: bool) -> None:
        """Begins a constructor: what the groups, as they come, ask for."""
        if execution is not None and execution not in EXECUTIONS:
            raise AlgorithmError(f"execution is one of {', '.join(EXECUTIONS)} or None, not {execution!r}")
        self._execution, self._flatten = execution, flatten
        self._plans: dict[int, Plan] = {}
        self._answer: dict[Tensor, Tensor] = {}
        self._schedules: list[Schedules] = []

    def _finish(self, schedules: Schedules) -> None:
        """Ends a constructor: a schedule given for all groups is that of each one that says nothing else."""
        for group, own in zip(self.param_groups, self._schedules, strict=True):
            own.update({k: v for k, v in schedules.items() if k not in own and group[k] is self.defaults[k]})
        self._step_supports_amp_scaling = False  # GradScaler then unscales the gradients itself, before the step

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; knobs may be functions of the step, and an unknown one that looks like a slip is refused.

        Raises KnobError, or what torch raises, before anything has changed.
        """
        schedules: Schedules = {}
        if isinstance(param_group, dict):
            for key in param_group.keys() - self.defaults.keys() - {"params", "param_names"}:
                close = difflib.get_close_matches(key, self.defaults, n=1, cutoff=0.85)
                if close:
                    who = type(self).__name__
                    raise KnobError(f"a parameter group of {who} has '{key}': did you mean '{close[0]}'?")
            param_group, schedules = split_schedules(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if "param_names" not in group:
            group["params"] = list(dict.fromkeys(group["params"]))  # torch has warned of one that stands there twice
        self._schedules.append(schedules)
        if self._flatten:
            rehome(group["params"])

    # The state: torch's layout whenever somebody looks

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """What is remembered of each parameter, under torch's names."""
        self._flush()
        return self._state

    @state.setter
    def state(self, value: defaultdict[Tensor, Any]) -> None:
        self._plans.clear()
        self._state = value

    def _flush(self) -> None:
        for plan in self._plans.values():
            plan.flush()
        self._plans.clear()  # whoever looks may write: the next step looks anew

    def __getstate__(self) -> dict[str, Any]:
        own = ("_rule", "_execution", "_flatten", "_schedules", "_answer")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own if hasattr(self, name)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rest = dict(state)
        self._plans = {}
        self._state = rest.pop("state")
        super().__setstate__(rest)

    def state_dict(self) -> dict[str, Any]:
        """As torch's; refused between `eval()` and `train()`, when theta is not in the parameters and would be lost."""
        if self._answer:
            raise AlgorithmError("the parameters hold the answer of eval(): call train() before saving a state_dict")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state_dict, of this class or of torch's class of the same name.

        Tensors keep the dtype in which they were saved. Where both sides have names for their parameters they are
        matched by name, in whatever order. Raises StateError for a state of another rule, of other shapes or names; the
        optimizer is then as it was.
        """
        if self._answer:
            raise AlgorithmError("the parameters hold the answer of eval(): call train() before loading a state_dict")
        self._flush()
        before = self._state, self.param_groups
        settings = [dict(group) for group in self.param_groups]
        final: list[dict[str, Any]] = []

        def ordered(_: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            final.append(by_names(given, before[1]))
            return final[0]

        handle = self.register_load_state_dict_pre_hook(ordered)
        try:
            super().load_state_dict(state_dict)
            self._state = with_saved_dtypes(self._state, final[0], self.param_groups)
            for group in self.param_groups:
                for name, value in self.defaults.items():
                    group.setdefault(name, value)
                rule = self.rule_of(group)
                known = self._keys(rule)
                for p in group["params"]:
                    check_loaded(type(self).__name__, rule, known, self.layout, p, self._state.get(p, {}))
        except BaseException:
            self._state, self.param_groups = before
            for group, was in zip(self.param_groups, settings, strict=True):
                group.clear()
                group.update(was)
            raise
        finally:
            handle.remove()
            self._plans.clear()

    def _keys(self, rule: Rule) -> list[str]:
        """The keys that a parameter's state may have."""
        own = [self.layout.get(name, name) for name in rule.remembers]
        return [key for key in dict.fromkeys([*own, *self.layout.values()]) if key is not None]

    # Steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient; it returns the closure's loss, where there is one."""
        if torch._C._autograd._profiler_enabled():
            with torch.autograd.profiler.record_function(f"Optimizer.step#{type(self).__name__}.step"):
                return self._step(closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it to run the hooks, which is done here

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        args: Any = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for hooks in (torchs._global_optimizer_pre_hooks, self._optimizer_step_pre_hooks):
            for hook in hooks.values():
                result = hook(self, args, kwargs)
                if result is not None:
                    args, kwargs = result
                    closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if self._answer:
            raise AlgorithmError("the parameters hold the answer of eval(): call train() before the next step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = self._evaluated(closure)
        self._advance(closure)
        for after in (self._optimizer_step_post_hooks, torchs._global_optimizer_post_hooks):
            for notify in after.values():
                notify(self, args, kwargs)
        return loss

    def _evaluated(self, closure: Callable[[], Any]) -> Any:
        """The closure's loss; a rule that sees f lets it leave backward() to the optimizer."""
        if not any("f" in self.rule_of(group).sees for group in self.param_groups):
            return closure()
        params = [p for group in self.param_groups for p in group["params"]]
        for p in params:
            p.grad = None
        loss = closure()
        if all(p.grad is None for p in params):
            loss.backward()
        return loss

    def _advance(self, closure: Callable[[], Any] | None) -> None:
        groups, plans = self.param_groups, []
        for k, group in enumerate(groups):
            plan = self._plans.get(k)
            rule = self.rule_of(group)
            if closure is None and "f" in rule.sees:
                raise AlgorithmError(f"{rule.name} evaluates the objective itself: call step(closure)")
            if plan is None or not plan.fits(group, rule):
                if plan is not None:
                    plan.flush()
                    del self._plans[k]
                plan = Plan(
                    rule, group, self.layout, self.places, self.sparse_of(group), self._execution, self._flatten
                )
                plan.check(type(self).__name__)
            plans.append(plan)
        new: dict[int, dict[Tensor, State]] = {}
        for k, (plan, group) in enumerate(zip(plans, groups, strict=True)):
            if k not in self._plans:
                new[k] = {p: self._state.get(p, {}) for p in plan.params}
                graph = bool(group.get("differentiable"))
                with torch.set_grad_enabled(graph):
                    plan.form(new[k], plan.knobs({**group, **self._due(k)}, graph))
                fits = plan.fits(group, plan.rule)
                assert fits, "a plan fits what it was made for"
        # All was looked at before anything is changed, so that an error leaves the optimizer as it was.
        for k, states in new.items():
            self._state.update({p: state for p, state in states.items() if state})
            self._plans[k] = plans[k]
        for k, schedules in enumerate(self._schedules):
            if schedules:
                groups[k].update(self._due(k), schedule_step=groups[k].get("schedule_step", 0) + 1)
        for plan, group in zip(plans, groups, strict=True):
            if group.get("differentiable"):
                with torch.enable_grad():
                    plan.advance_differentiably(group)
            else:
                plan.advance(group, closure)

    def _due(self, k: int) -> dict[str, Any]:
        """What the schedules of a group say of its next step."""
        t = self.param_groups[k].get("schedule_step", 0)
        return {name: schedule(t) for name, schedule in self._schedules[k].items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; of flattened parameters the gradients stay, in one vector, and become zero."""
        if not self._flatten:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            flat_gradients(group["params"])

    # The answer of averaged rules

    @torch.no_grad()
    def eval(self) -> None:
        """Puts the parameters that the rule answers with (an average, say) into the model, until `train()`."""
        if self._answer:
            return
        self._flush()
        for group in self.param_groups:
            plan = Plan(self.rule_of(group), group, self.layout, self.places, None, "eager", False)
            for p, answer in plan.answers(group, self._state):
                self._answer[p] = p.detach().clone()
                local(p).copy_(answer)

    @torch.no_grad()
    def train(self) -> None:
        """Takes the answer out again: training goes on where it was."""
        for p, theta in self._answer.items():
            p.copy_(theta)
        self._answer.clear()

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        """The parameters hold the rule's answer inside this context."""
        self.eval()
        try:
            yield
        finally:
            self.train()


@cache
def _maximised(rule: Rule) -> Rule:
    return maximised(rule)


def _refuse_negative(who: str, values: Mapping[str, Any]) -> None:
    for key in ("lr", "eps", "weight_decay", "momentum"):
        if key in values and values[key] < 0:
            raise AlgorithmError(f"{who} was given {key}={values[key]}: it must not be negative")
