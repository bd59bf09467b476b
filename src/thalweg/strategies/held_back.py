"""Rules whose steps are held back: skipped where a gradient is not finite, or saved up for one of several gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Memory, Rule, Start, clock, where, zeros

Decision = tuple[Any, Tensor, Memory]  # whether the inner rule steps, the gradient it sees then, what is remembered


def guarded(rule: Rule) -> Rule:
    """Skips a step whose gradient holds NaN or infinity; `skipped` counts them, so that none is skipped in silence.

    theta and all that the rule remembers stay as they were. It looks at the whole vector, so numbers that are
    remembered (the clock) become tensors of one, in float64, as precise as Python's. Mixed precision with a loss scale
    has such steps now and then; a run in which `skipped` grows at every step has diverged.

    >>> from thalweg import adam
    >>> careful = guarded(adam)
    >>> g = torch.tensor([1.0, float("nan")])
    >>> delta, memory = careful.step({"g": g}, careful.start(torch.zeros(2)), careful.knobs)
    >>> delta, memory["skipped"], memory["m"], memory["t"]
    (tensor([0., 0.]), tensor(1), tensor([0., 0.]), tensor(0., dtype=torch.float64))
    """

    def decide(g: Tensor, own: Memory, knobs: Mapping[str, Any]) -> Decision:
        finite = torch.isfinite(g).all()
        return finite, torch.where(finite, g, torch.zeros_like(g)), {"skipped": own["skipped"] + (~finite).long()}

    return replace(_held_back(guarded, rule, {"skipped": clock}, {}, decide), per="vector")


def accumulated(rule: Rule, accumulate_every: int = 4) -> Rule:
    """Gradient accumulation: a step of the mean of accumulate_every gradients, none in between (section 8.1.3).

    `total` is the sum of the gradients `gathered` so far. It is the rule on batches that many times as large, where the
    loss is a mean and all batches are of one size. A schedule of the rule's knobs sees every gradient as a step, and
    what is wrapped around it (weight decay, say) acts at every gradient: wrap that inside.

    >>> from thalweg import sgd
    >>> slow = accumulated(sgd, accumulate_every=2)
    >>> memory = slow.start(torch.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     delta, memory = slow.step({"g": torch.tensor([g])}, memory, {"lr": 1.0, "accumulate_every": 2})
    ...     print(delta)
    tensor([0.])
    tensor([-2.])
    """

    def decide(g: Tensor, own: Memory, knobs: Mapping[str, Any]) -> Decision:
        total, gathered, every = own["total"] + g, own["gathered"] + 1, knobs["accumulate_every"]
        full = gathered >= every
        kept = {"total": where(full, torch.zeros_like(total), total), "gathered": where(full, 0, gathered)}
        return full, total / every, kept

    return _held_back(
        accumulated, rule, {"total": zeros, "gathered": clock}, {"accumulate_every": accumulate_every}, decide
    )


def _held_back(
    made_by: Callable[..., Rule],
    inside: Rule,
    own: dict[str, Start],
    knobs: dict[str, float],
    decide: Callable[[Tensor, Memory, Mapping[str, Any]], Decision],
) -> Rule:
    """A rule that steps only where `decide` says so; what the rule inside remembers is held back with the step.

    A plain combinator could not do that: its inner rule's memory is carried along whatever happens.
    """
    for clash in sorted({*own, *knobs} & {*inside.remembers, *inside.knobs}):
        raise AlgorithmError(f"{made_by.__name__} cannot wrap {inside.name}: both have '{clash}'; is it applied twice?")
    names = [*own, *inside.remembers]

    def run(*args: Any, **given: Any) -> Any:
        seen = dict(zip(inside.sees, args, strict=False))
        memory = dict(zip(names, args[len(inside.sees) :], strict=True))
        go, seen["g"], mine = decide(seen["g"], {name: memory[name] for name in own}, given)
        before = {name: memory[name] for name in inside.remembers}
        delta, after = inside.step(seen, before, {n: v for n, v in given.items() if n in inside.knobs})
        delta = delta.to(seen["g"].dtype)  # where a clock in float64 has widened the step of a tensor of one
        kept = [_chosen(go, after[name], old) for name, old in before.items()]
        return where(go, delta, torch.zeros_like(delta)), *mine.values(), *kept

    return Rule(
        name=f"{made_by.__name__}({inside.name})",
        fn=run,
        sees=inside.sees,
        remembers={**own, **inside.remembers},
        knobs={**inside.knobs, **knobs},
        doc=made_by.__doc__ or "",
        per=inside.per,
        batched=inside.batched,
        answers=inside.answers,
        wraps=(made_by, inside),
    )


def _chosen(go: Any, new: Any, old: Any) -> Any:
    """What is remembered: `new` where the inner rule steps, else `old`."""
    if not isinstance(go, Tensor):
        return new if go else old
    if old is None:  # a rule for matrices may remember less of a bias
        return None
    if not isinstance(old, Tensor):  # of a number torch.where makes float32, in which 1 - 0.999 is 5e-5 off
        old = torch.tensor(old, dtype=torch.float64, device=go.device)
    return torch.where(go, torch.as_tensor(new, dtype=old.dtype, device=go.device), old)
