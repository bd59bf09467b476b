"""An algorithm is a pure function, and its signature is its declaration.

Parameters without a default are what a rule *sees* (`g`, `theta`, `f`); parameters with a default are
what it *remembers*, the default saying how each starts; keyword-only parameters are its *knobs*. It
returns the step Δθ and the new memory. A combinator is declared the same way, its first parameter being
the rule that it wraps.

A rule is elementwise unless it says otherwise: `@rule(per="tensor")` is handed each parameter in its own shape (Muon,
Adafactor), `@rule(per="vector")` the whole of theta end to end (Prodigy, a global norm).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError

Memory = dict[str, Any]
SEEN = ("g", "theta", "f")
PER = ("element", "tensor", "vector")  # what a rule looks at together, from the finest to the coarsest


@dataclass(frozen=True)
class Start:
    """How a remembered quantity starts: `make(theta, knobs)` gives its first value."""

    name: str
    make: Callable[[Tensor, Mapping[str, Any]], Any]
    scalar: bool = False

    def __repr__(self) -> str:
        return self.name


zeros = Start("zeros", lambda theta, knobs: torch.zeros_like(theta))
current = Start("current", lambda theta, knobs: theta.clone())
clock = Start("clock", lambda theta, knobs: 0, scalar=True)
one = Start("one", lambda theta, knobs: 1.0, scalar=True)


def full(knob: str) -> Start:
    """Starts as a vector filled with the value of a knob (AdaGrad's initial accumulator)."""
    return Start(f"full({knob})", lambda theta, knobs: torch.zeros_like(theta) + knobs[knob])


def number(knob: str) -> Start:
    """Starts as one number, the value of a knob (the first lr of ASGD)."""
    return Start(f"number({knob})", lambda theta, knobs: knobs[knob], scalar=True)


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule and what its signature declares.

    `step` is the one way to run it; `advance`, where an execution has given one, adds the step to theta at once.
    `per` says what it looks at together: each "element" alone, a "tensor" in its own shape, or all of theta as one
    "vector"; `batched` that a rule per tensor may be run on several of one shape at once. `answers`, of theta, the
    memory and the knobs, gives the parameters to evaluate where they are not theta.
    `source` is the function that was declared: the rule's, or the combinator's for a rule that a combinator made.
    `wraps` is then that combinator and the rule inside; whoever runs rules another way (compiled, say) rebuilds the
    outer one around the inner.

    >>> from thalweg import adam
    >>> adam.sees, list(adam.remembers), list(adam.knobs)
    (('g',), ['m', 'v', 't'], ['lr', 'beta1', 'beta2', 'eps'])
    """

    name: str
    fn: Callable[..., Any]
    sees: tuple[str, ...]
    remembers: dict[str, Start]
    knobs: dict[str, float]
    doc: str = ""
    per: str = "element"
    batched: bool = True
    answers: Callable[[Tensor, Memory, Mapping[str, Any]], Tensor] | None = field(default=None, repr=False)
    wraps: tuple[Callable[[Rule], Rule], Rule] | None = None
    source: Callable[..., Any] | None = field(default=None, repr=False)
    advance: Callable[[Mapping[str, Any], Memory, Mapping[str, Any]], Memory] | None = field(default=None, repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself: what it sees, then what it remembers, then its knobs by name."""
        return self.fn(*args, **kwargs)

    def start(self, theta: Tensor, **knobs: Any) -> Memory:
        """The memory before the first step, for `theta: (n,)`."""
        values = self.with_defaults(knobs)
        return {name: start.make(theta, values) for name, start in self.remembers.items()}

    def step(self, seen: Mapping[str, Any], memory: Memory, knobs: Mapping[str, Any]) -> tuple[Tensor, Memory]:
        """The step Δθ and the new memory."""
        result = self.fn(*(seen[name] for name in self.sees), *(memory[name] for name in self.remembers), **knobs)
        if not self.remembers:
            return result, {}
        delta, *remembered = result
        return delta, dict(zip(self.remembers, remembered, strict=True))

    def with_defaults(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Every knob's value, the defaults where `knobs` is silent; an unknown knob is an AlgorithmError."""
        self.check(knobs)
        return {**self.knobs, **knobs}

    def check(self, knobs: Iterable[str]) -> None:
        """Raises AlgorithmError for a knob that the rule does not have."""
        for knob in knobs:
            if knob not in self.knobs:
                raise AlgorithmError(f"{self.name} has no knob '{knob}': its knobs are {', '.join(sorted(self.knobs))}")

    def around(self, inside: Rule) -> Rule:
        """The same combinator, with its name and knobs, around another form of the rule that it wraps."""
        assert self.wraps is not None
        return replace(self.wraps[0](inside), name=self.name, knobs=self.knobs, doc=self.doc)

    def answer(self, theta: Tensor, memory: Memory, knobs: Mapping[str, Any] | None = None) -> Tensor:
        """The parameters to evaluate and keep: the average for an averaged rule, else theta itself."""
        return theta if self.answers is None else self.answers(theta, memory, self.with_defaults(knobs or {}))


Answers = Callable[[Tensor, Memory, Mapping[str, Any]], Tensor]


@overload
def rule(fn: Callable[..., Any]) -> Rule: ...
@overload
def rule(
    *, per: str = "element", batched: bool = True, answers: Answers | None = None
) -> Callable[[Callable[..., Any]], Rule]: ...


def rule(
    fn: Callable[..., Any] | None = None,
    *,
    per: str = "element",
    batched: bool = True,
    answers: Answers | None = None,
) -> Any:
    """Makes a Rule of a pure function; its signature is read as said above.

    >>> @rule
    ... def sgd(g, *, lr=0.01):
    ...     return -lr * g
    >>> sgd.step({"g": torch.ones(2)}, {}, {"lr": 0.5})
    (tensor([-0.5000, -0.5000]), {})
    """
    if fn is None:
        return lambda declared: rule(declared, per=per, batched=batched, answers=answers)  # type: ignore[call-overload]
    sees, remembers, knobs = _declared(fn, list(inspect.signature(fn).parameters.values()))
    return Rule(fn.__name__, fn, sees, remembers, knobs, inspect.getdoc(fn) or "", per, batched, answers, source=fn)


@overload
def combinator(fn: Callable[..., Any]) -> Callable[..., Rule]: ...
@overload
def combinator(
    *, per: str = "element", answers: Answers | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Rule]]: ...


def combinator(fn: Callable[..., Any] | None = None, *, per: str = "element", answers: Answers | None = None) -> Any:
    """Makes a combinator, from rule to rule, of a function whose first parameter is the inner rule.

    Inside, `inner(g=..., theta=...)` runs the inner rule, with what it sees replaced by what is passed,
    and gives its step Δθ; its memory is carried along. A knob without a default is the inner rule's own,
    read by both. The defaults of the others can be given when the combinator is applied.

    >>> from thalweg import sgd
    >>> @combinator
    ... def halved(inner, *, factor=0.5):
    ...     return factor * inner()
    >>> halved(sgd, factor=0.25).step({"g": torch.ones(1)}, {}, {"lr": 1.0, "factor": 0.25})
    (tensor([-0.2500]), {})
    """
    if fn is None:
        return lambda declared: combinator(declared, per=per, answers=answers)  # type: ignore[call-overload]
    parameters = list(inspect.signature(fn).parameters.values())[1:]
    own_sees, own_remembers, own_knobs = _declared(fn, parameters)
    shared = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]

    def combine(inside: Rule, **defaults: float) -> Rule:
        for knob in defaults:
            if knob not in own_knobs:
                raise AlgorithmError(
                    f"{fn.__name__} has no knob '{knob}': its knobs are {', '.join(sorted(own_knobs))}"
                )
        for knob in shared:
            if knob not in inside.knobs:
                raise AlgorithmError(f"{fn.__name__} needs a rule with the knob '{knob}': {inside.name} has none")
        own, others = {*own_remembers, *own_knobs}, {*inside.remembers, *inside.knobs}
        for clash in sorted((own & others) | (own & {*inside.sees}) | ({*own_sees} & others)):
            raise AlgorithmError(f"{fn.__name__} cannot wrap {inside.name}: both have '{clash}'; is it applied twice?")
        sees = tuple(name for name in SEEN if name in own_sees + inside.sees)
        names = [*own_remembers, *inside.remembers]

        def run(*args: Any, **knobs: Any) -> Any:
            seen = dict(zip(sees, args, strict=False))
            memory = dict(zip(names, args[len(sees) :], strict=True))
            carried: list[Memory] = []

            def inner(**replaced: Any) -> Tensor:
                delta, kept = inside.step(
                    {**seen, **replaced},
                    {name: memory[name] for name in inside.remembers},
                    {name: value for name, value in knobs.items() if name in inside.knobs},
                )
                carried.append(kept)
                return delta

            mine = {name: value for name, value in knobs.items() if name in own_knobs or name in shared}
            result = fn(inner, *(seen[n] for n in own_sees), *(memory[n] for n in own_remembers), **mine)
            delta, *remembered = result if own_remembers else (result,)
            kept = {**dict(zip(own_remembers, remembered, strict=True)), **carried[-1]}
            return (delta, *kept.values()) if names else delta

        return Rule(
            name=f"{fn.__name__}({inside.name})",
            fn=run,
            sees=sees,
            remembers={**own_remembers, **inside.remembers},
            knobs={**inside.knobs, **own_knobs, **defaults},
            doc=inspect.getdoc(fn) or "",
            per=max(per, inside.per, key=PER.index),
            batched=inside.batched,
            answers=answers or inside.answers,
            wraps=(lambda other: combine(other, **defaults), inside),
            source=fn,
        )

    combine.__name__ = fn.__name__
    combine.__doc__ = fn.__doc__
    combine.__module__ = fn.__module__
    return combine


def _declared(
    fn: Callable[..., Any], parameters: list[inspect.Parameter]
) -> tuple[tuple[str, ...], dict[str, Start], dict[str, float]]:
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    sees = tuple(p.name for p in positional if p.default is p.empty)
    remembers = {p.name: p.default for p in positional if p.default is not p.empty}
    knobs = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    for name in sees:
        if name not in SEEN:
            raise AlgorithmError(f"{fn.__name__} wants to see '{name}': a rule can see {', '.join(SEEN)}")
    for name, start in remembers.items():
        if not isinstance(start, Start):
            raise AlgorithmError(
                f"{fn.__name__} remembers '{name}' from {start!r}: "
                "say zeros, current, clock, one, full(knob) or number(knob)"
            )
    return sees, remembers, knobs


# The vocabulary of elementwise rules: the same on a tensor and on one number of it.


def sqrt(x: Any) -> Any:
    return torch.sqrt(x) if isinstance(x, Tensor) else math.sqrt(x)


def exp(x: Any) -> Any:
    return torch.exp(x) if isinstance(x, Tensor) else math.exp(x)


def log(x: Any) -> Any:
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def sign(x: Any) -> Any:
    return torch.sign(x) if isinstance(x, Tensor) else (x > 0) - (x < 0)


def where(condition: Any, x: Any, y: Any) -> Any:
    return torch.where(condition, x, y) if isinstance(condition, Tensor) else (x if condition else y)


def maximum(x: Any, y: Any) -> Any:
    return _pairwise(torch.maximum, lambda a, b: a if a > b or a != a else b, x, y)  # NaN from either side


def minimum(x: Any, y: Any) -> Any:
    return _pairwise(torch.minimum, lambda a, b: a if a < b or a != a else b, x, y)


def atan2(y: Any, x: Any) -> Any:
    return _pairwise(torch.atan2, math.atan2, y, x)


def _pairwise(on_tensors: Callable[..., Any], on_numbers: Callable[..., Any], x: Any, y: Any) -> Any:
    like = next((value for value in (x, y) if isinstance(value, Tensor)), None)
    if like is None:
        return on_numbers(x, y)
    x, y = (v if isinstance(v, Tensor) else torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (x, y))
    return on_tensors(x, y)
