"""What an optimizer remembers of each parameter, as torch.optim keeps it: `state[p]`, a dictionary of tensors."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import StateError
from thalweg.core.lifted import lifted
from thalweg.core.rule import Memory, Rule
from thalweg.execution.eager import computed_in
from thalweg.execution.memory import is_dense, split

Layout = Mapping[str, str | None]  # the key of a remembered name in state[p]; None: known from the rest
State = dict[str, Any]


def begin(rule: Rule, params: Sequence[Tensor], states: Sequence[State], layout: Layout, knobs: Memory) -> None:
    """Puts the start of all that the rule remembers where the states have none yet."""
    if rule.per == "vector":
        _begin_together(rule, params, states, layout, knobs)
        return
    for p, state in zip(params, states, strict=True):
        missing = [name for name in rule.remembers if state.get(_key(layout, name)) is None and _key(layout, name)]
        first = rule.start(_theta(p), **knobs) if missing else {}
        for name in missing:
            if first[name] is not None:
                state[_key(layout, name)] = _kept(first[name], p)
        if rule.per == "element":
            _align(rule, p, state, layout)


def _align(rule: Rule, p: Tensor, state: State, layout: Layout) -> None:
    """Lays what is remembered of each element out as the parameter is now; somebody may have given it other data."""
    for name, start in rule.remembers.items():
        held = state.get(_key(layout, name))
        if start.scalar or not isinstance(held, Tensor):
            continue
        if held.shape != p.shape:
            raise StateError(
                f"the state of a parameter of shape {tuple(p.shape)} holds {_key(layout, name)} of shape "
                f"{tuple(held.shape)}: where you give a parameter other data, give its state the same shape"
            )
        order = torch.preserve_format if is_dense(p) else torch.contiguous_format
        if type(held) is Tensor and held.stride() != torch.empty_like(p, device="meta", memory_format=order).stride():
            state[_key(layout, name)] = torch.empty_like(p, dtype=held.dtype, memory_format=order).copy_(held)


def _begin_together(
    rule: Rule, params: Sequence[Tensor], states: Sequence[State], layout: Layout, knobs: Memory
) -> None:
    for p, state in zip(params, states, strict=True):
        laid_out = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == p.shape}
        state.update({k: v.contiguous() for k, v in laid_out.items()})
    whole = lifted(rule, [p.shape for p in params])
    held = []
    for name in whole.remembers:  # name.k is that of parameter k alone
        owner, _, k = name.partition(".")
        if key := _key(layout, owner):
            held += [key in state for state in (states[int(k) : int(k) + 1] if k else states)]
    if held and all(held):
        for name, start in whole.remembers.items():  # numbers of the whole vector are one tensor for all
            if start.scalar or "." in name:
                continue
            values = [state[_key(layout, name)] for state in states]
            if all(v.dim() == 0 for v in values) and any(p.dim() for p in params):
                for state in states:
                    state[_key(layout, name)] = values[0]
        return
    theta = torch.cat([_theta(p).reshape(-1) for p in params])
    for name, value in whole.start(theta, **knobs).items():
        owner, _, k = name.partition(".")
        key = _key(layout, owner)
        if k:
            states[int(k)][key] = value
        elif isinstance(value, Tensor) and value.shape == theta.shape and theta.dim():
            for p, state, piece in zip(params, states, split(value, params), strict=True):
                state[key] = piece.view(p.shape)
        else:
            for state in states:
                state[key] = value if isinstance(value, Tensor) else as_state(value)


def read_numbers(rule: Rule, p: Tensor, state: State, layout: Layout, knobs: Memory, as_tensors: bool) -> Memory:
    """The numbers that the rule remembers, out of a parameter's state; as tensors, on its device, where asked."""
    numbers: Memory = {}
    for name, start in rule.remembers.items():
        if not start.scalar:
            continue
        key = _key(layout, name)
        first = start.make(p, knobs)
        held = state.get(key) if key is not None else float(bool(state))
        if held is None:
            held = first
        if as_tensors:
            numbers[name] = torch.as_tensor(held, dtype=torch.float32).to(p.device)
        else:
            value = held.item() if isinstance(held, Tensor) and not held.requires_grad else held
            numbers[name] = int(value) if isinstance(first, int) and float(value).is_integer() else value
    return numbers


def as_state(value: Any) -> Tensor:
    """A remembered number as torch.optim keeps it: a step count in float32, another number exactly."""
    if isinstance(value, Tensor):
        return value.clone()
    exact = isinstance(value, int) and value < 2**24
    return torch.tensor(float(value), dtype=torch.float32 if exact else torch.float64)


def _key(layout: Layout, name: str) -> Any:
    return layout.get(name, name)


def _theta(p: Tensor) -> Tensor:
    """A parameter as a rule's start sees it: real, and in the dtype of the memory."""
    p = torch.view_as_real(p) if p.is_complex() else p
    return p.to(computed_in(p.dtype))


def _kept(value: Any, p: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return as_state(value)
    return torch.view_as_complex(value) if p.is_complex() and value.dim() > p.dim() else value


# What is loaded


def by_names(state_dict: dict[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state_dict in the order of these groups' parameters, where both sides have names for them.

    A group takes its settings from the saved group that held its first parameter. Raises StateError for names that are
    not there.
    """
    saved = state_dict["param_groups"]
    if not all("param_names" in group for group in itertools.chain(saved, groups)):
        return state_dict
    names = [[str(n) for n in group["param_names"]] for group in groups]
    if names == [[str(n) for n in group["param_names"]] for group in saved]:
        return state_dict
    place = {str(n): (i, group) for group in saved for n, i in zip(group["param_names"], group["params"], strict=True)}
    mine = list(itertools.chain.from_iterable(names))
    missing, foreign = [n for n in mine if n not in place], sorted(place.keys() - set(mine))
    if missing or foreign:
        raise StateError(
            f"the state_dict has no state for {', '.join(missing) or 'nothing more'}, and has one for "
            f"{', '.join(foreign) or 'nothing else'}: it was saved from parameters of other names"
        )
    counter = itertools.count()
    state: dict[int, Any] = {}
    ordered: list[dict[str, Any]] = []
    for own in names:
        numbers = [next(counter) for _ in own]
        state |= {
            k: state_dict["state"][place[n][0]]
            for k, n in zip(numbers, own, strict=True)
            if place[n][0] in state_dict["state"]
        }
        settings = place[own[0]][1] if own else saved[len(ordered)]
        ordered.append({**settings, "params": numbers, "param_names": own})
    return {**state_dict, "state": state, "param_groups": ordered}


def with_saved_dtypes(
    loaded: defaultdict[Tensor, State], state_dict: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]
) -> defaultdict[Tensor, State]:
    """The loaded state with copies of its tensors in the dtypes in which they were saved, on the parameters' devices.

    torch casts them to the parameters' dtype, which ruins float32 moments of bfloat16 parameters.
    """
    ids = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    params = itertools.chain.from_iterable(group["params"] for group in groups)
    kept: defaultdict[Tensor, State] = defaultdict(dict, loaded)
    for k, p in zip(ids, params, strict=True):
        saved = state_dict["state"].get(k)
        if saved is not None:
            kept[p] = {key: _placed(value, loaded[p].get(key), p) for key, value in saved.items()}
    return kept


def _placed(saved: Any, loaded: Any, p: Tensor) -> Any:
    if not isinstance(saved, Tensor):
        return saved
    device = p.device if saved.dim() or not isinstance(loaded, Tensor) else loaded.device
    copy = saved.detach().to(device, copy=True)
    if copy.shape == p.shape and copy.stride() != p.stride() and type(copy) is Tensor:
        copy = torch.empty_like(p, dtype=copy.dtype).copy_(copy)
    return copy


def check_loaded(
    who: str, rule: Rule, known: Iterable[str], layout: Layout, p: Tensor, state: Mapping[str, Any]
) -> None:
    """Raises StateError where a parameter's loaded state is not what the rule remembers of it."""
    for key in state:
        if key not in known:
            raise StateError(
                f"the state_dict remembers '{key}' of a parameter, {who} remembers {', '.join(known) or 'nothing'}: "
                "it was saved from another optimizer"
            )
    if rule.per == "vector" or not state:
        return
    first = rule.start(_theta(torch.empty_like(p, device="meta")), **rule.knobs)
    for name, value in first.items():
        held = state.get(_key(layout, name))
        if not (isinstance(value, Tensor) and isinstance(held, Tensor)):
            continue
        shape = p.shape if p.is_complex() and value.dim() > p.dim() else value.shape
        if held.shape != shape:
            raise StateError(
                f"the state_dict holds {_key(layout, name)} of shape {tuple(held.shape)} for a parameter of shape "
                f"{tuple(p.shape)}: expected {tuple(shape)}; it was saved from another model"
            )
