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
    remembered (the clock) become tensors of one. Mixed precision with a loss scale has such steps now and then; a run
    in which `skipped` grows at every step has diverged.

    >>> from thalweg import adam
    >>> careful = guarded(adam)
    >>> g = torch.tensor([1.0, float("nan")])
    >>> delta, memory = careful.step({"g": g}, careful.start(torch.zeros(2)), careful.knobs)
    >>> delta, memory["skipped"], memory["m"], memory["t"]
    (tensor([0., 0.]), tensor(1), tensor([0., 0.]), tensor(0))
    """

    def decide(g: Tensor, own: Memory, knobs: Mapping[str, Any]) -> Decision:
        finite = torch.isfinite(g).all()
        return finite, torch.where(finite, g, torch.zeros_like(g)), {"skipped": own["skipped"] + (~finite).long()}

    return replace(_held_back(guarded, rule, {"skipped": clock}, {}, decide), per="vector")


def accumulated(rule: Rule, every: int = 4) -> Rule:
    """Gradient accumulation: a step of the mean of `every` gradients, and none in between (section 8.1.3).

    `total` is the sum so far, of n gradients. It is the rule on batches `every` times as large, where the loss is a
    mean and all batches are of one size; a schedule of the rule's knobs sees every gradient as a step.

    >>> from thalweg import sgd
    >>> slow = accumulated(sgd, every=2)
    >>> memory = slow.start(torch.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     delta, memory = slow.step({"g": torch.tensor([g])}, memory, {"lr": 1.0, "every": 2})
    ...     print(delta)
    tensor([0.])
    tensor([-2.])
    """

    def decide(g: Tensor, own: Memory, knobs: Mapping[str, Any]) -> Decision:
        total, n = own["total"] + g, own["n"] + 1
        full = n >= knobs["every"]
        kept = {"total": where(full, torch.zeros_like(total), total), "n": where(full, 0, n)}
        return full, total / knobs["every"], kept

    return _held_back(accumulated, rule, {"total": zeros, "n": clock}, {"every": every}, decide)


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
        kept = [None if old is None else where(go, after[name], old) for name, old in before.items()]
        return where(go, delta, torch.zeros_like(delta)), *mine.values(), *kept

    return Rule(
        name=f"{made_by.__name__}({inside.name})",
        fn=run,
        sees=inside.sees,
        remembers={**own, **inside.remembers},
        knobs={**inside.knobs, **knobs},
        doc=made_by.__doc__ or "",
        per=inside.per,
        answers=inside.answers,
        wraps=(made_by, inside),
    )
