"""Preconditioning: any metric under any first-order rule (after sections 8.2.1 and 8.6)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import PER, SEEN, Rule, Start

PREFIX = "metric_"


def preconditioned(rule: Rule, metric: Rule, **defaults: float) -> Rule:
    """The rule on gradients that a metric has turned and scaled: it sees M⁻¹g in the place of g.

    A metric is a rule whose step, with lr = 1, is -M⁻¹g, and any rule is one: a diagonal (`rmsprop`, `adagrad`, `adam`
    with beta1 = 0), Kronecker's (`shampoo`, K-FAC), quasi-Newton's, Fisher's. So `sgd` is the identity, on either side;
    `preconditioned(sgd, metric)` is the metric at the rule's lr, `preconditioned(momentum, rmsprop)` is
    `rmsprop_momentum`; and the order of bracketing does not matter. A metric with a mean or a line search of its own
    brings it along.

    Both knobs and memories are there under their own names, the metric's as `metric_...` where the rule has the same
    name. The metric's lr is no knob: the length of the step is the rule's business. `defaults` are for knobs of either.

    Raises AlgorithmError for a rule that evaluates the objective (its line search would meet a gradient that is not the
    objective's), and for a metric that answers with an average.

    >>> import torch
    >>> from thalweg import momentum, rmsprop
    >>> rule = preconditioned(momentum, rmsprop, eps=0.0)
    >>> list(rule.knobs), list(rule.remembers)
    (['lr', 'momentum', 'alpha', 'eps'], ['velocity', 'r'])
    >>> theta = torch.zeros(2)
    >>> rule.step({"g": torch.tensor([3.0, -0.1])}, rule.start(theta), rule.with_defaults({"lr": 0.5}))[0]
    tensor([-5.,  5.])
    """
    if "f" in rule.sees:
        raise AlgorithmError(
            f"preconditioned cannot wrap {rule.name}, which evaluates the objective: g would not be its"
        )
    if metric.answers is not None:
        raise AlgorithmError(f"{metric.name} is no metric: it answers with an average; put that around preconditioned")
    taken = {_base(name) for name in (*rule.remembers, *rule.knobs)}
    held = {_untaken(name, taken): name for name in metric.remembers}
    turned = {_untaken(knob, taken): knob for knob in metric.knobs if knob != "lr"}
    knobs = {**rule.knobs, **{name: metric.knobs[knob] for name, knob in turned.items()}}
    for knob in defaults:
        if knob not in knobs:
            raise AlgorithmError(f"preconditioned has no knob '{knob}': its knobs are {', '.join(sorted(knobs))}")
    sees = tuple(name for name in SEEN if name in {*rule.sees, *metric.sees})

    def of_metric(values: Mapping[str, Any]) -> dict[str, Any]:
        mine = {knob: values[name] for name, knob in turned.items() if name in values}
        return {**mine, "lr": 1.0} if "lr" in metric.knobs else mine

    def started(start: Start) -> Start:
        return Start(start.name, lambda theta, values: start.make(theta, of_metric(values)), start.scalar)

    remembers = {**rule.remembers, **{name: started(metric.remembers[theirs]) for name, theirs in held.items()}}

    def run(*args: Any, **values: Any) -> Any:
        seen = dict(zip(sees, args, strict=False))
        memory = dict(zip(remembers, args[len(sees) :], strict=True))
        step, kept = metric.step(seen, {theirs: memory[name] for name, theirs in held.items()}, of_metric(values))
        own = {name: value for name, value in values.items() if name in rule.knobs}
        delta, mine = rule.step({**seen, "g": -step}, {name: memory[name] for name in rule.remembers}, own)
        return (delta, *mine.values(), *kept.values()) if remembers else delta

    per = max(rule.per, metric.per, key=PER.index)
    return Rule(
        name=f"preconditioned({rule.name}, {metric.name})",
        fn=run,
        sees=sees,
        remembers=remembers,
        knobs={**knobs, **defaults},
        doc=inspect.getdoc(preconditioned) or "",
        per=per,
        batched=rule.batched and metric.batched,
        answers=rule.answers,
        wraps=_wraps(rule, metric) if per == "vector" else None,
    )


def _untaken(name: str, taken: set[str]) -> str:
    while _base(name) in taken:
        name = PREFIX + name
    return name


def _base(name: str) -> str:
    """A name without the number of a parameter, which a lifted rule's memory has."""
    return name.partition(".")[0]


def _wraps(rule: Rule, metric: Rule) -> tuple[Callable[[Rule], Rule], Rule]:
    """The one of both that is run on each parameter where theta is one vector, and how the pair is made around it."""
    if not _is_lifted(metric):
        return lambda other: preconditioned(other, metric), rule
    if _is_lifted(rule):
        raise AlgorithmError(
            f"preconditioned cannot bring {rule.name} and {metric.name} together: both look at tensors, and one at the "
            "whole vector too; put what looks at the vector around both"
        )
    return lambda other: preconditioned(rule, other), metric


def _is_lifted(rule: Rule) -> bool:
    """Whether something in the rule is run on each parameter in its shape."""
    return rule.per == "tensor" or (rule.per == "vector" and rule.wraps is not None and _is_lifted(rule.wraps[1]))
