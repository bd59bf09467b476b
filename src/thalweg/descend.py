"""The loop: training is a generator of Steps, and whatever watches it is a function over that stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.lifted import lifted
from thalweg.core.network import Batch, Network
from thalweg.core.objective import Evaluations
from thalweg.core.rule import Memory, Rule

Knob = float | Tensor | Callable[[int], float]


class Step(NamedTuple):
    """One step taken: the loss and gradient it saw, the knobs it used, the memory it left."""

    t: int  # steps taken so far, this one included
    loss: float  # on this step's batch, before the step
    g: Tensor  # (n,), the network's own buffer
    batch: Batch
    knobs: dict[str, Any]
    memory: Memory
    f: Evaluations | None = None  # of a rule that sees f: what it has evaluated


def descend(
    network: Network,
    rule: Rule,
    batches: Iterable[Batch],
    *,
    memory: Memory | None = None,
    t: int = 0,
    seed: int = 0,
    **knobs: Knob,
) -> Iterator[Step]:
    """Trains `network` with `rule`, a batch a step; the body of the caller's `for` is the callback.

    A knob may be a function of the step, counted from 0. To go on where a run was, pass the `memory` and `t` of
    its last Step and the batches from there. What the model draws at random (dropout) is a function of
    (`seed`, step). Raises AlgorithmError for a knob that the rule does not have.

    >>> from thalweg import Batch, Network, sgd
    >>> network = Network(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss)
    >>> batch = Batch(torch.ones(4, 1), torch.ones(4, 1))
    >>> losses = [step.loss for step in descend(network, sgd, [batch] * 50, lr=0.2)]
    >>> losses[-1] < 1e-6 * max(losses[0], 1e-3)
    True
    """
    rule = lifted(rule, network.shapes)
    values = rule.with_defaults(knobs)
    scheduled = {name: knob for name, knob in values.items() if callable(knob)}
    now = {name: knob(t) if callable(knob) else knob for name, knob in values.items()}
    if memory is None:
        memory = rule.start(network.theta, **now)
    seen: dict[str, Any] = {"theta": network.theta}
    for batch in batches:
        for name, schedule in scheduled.items():
            now[name] = schedule(t)
        torch.default_generator.manual_seed((seed * 0x9E3779B97F4A7C15 + t) % 2**63)
        if "f" in rule.sees:
            loss, seen["g"], seen["f"] = _evaluated(network, batch, seen.get("f"))
        else:
            loss, seen["g"] = network.gradient(batch)
        with torch.no_grad():
            if rule.advance is not None:
                memory = rule.advance(seen, memory, now)
            else:
                delta, memory = rule.step(seen, memory, now)
                network.theta.add_(delta)
        t += 1
        yield Step(t, float(loss), seen["g"], batch, dict(now), memory, seen.get("f"))


def _evaluated(network: Network, batch: Batch, last: Evaluations | None) -> tuple[Tensor, Tensor, Evaluations]:
    """Loss and gradient on a batch, and its objective, which knows them.

    Where the batch is the last one again, and the same function of theta, its objective may know them already: a line
    search has been here.
    """
    if last is not None and last.f.batch is batch and last.f.constant:
        last.nfev = last.njev = last.nhev = 0
        last.passes = 0.0
        loss, g = last.value_and_gradient(network.theta)
        return loss, g, last
    f = Evaluations(network.on(batch))
    before = torch.get_rng_state()
    loss, g = network.gradient(batch)
    f.f.constant = not list(network.module.buffers()) and torch.equal(before, torch.get_rng_state())
    f.know(network.theta, loss, g)
    f.passes += 1
    return loss, g, f
