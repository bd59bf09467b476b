"""The classes that torch.optim has too: torch's arguments, checks and state_dict, and the step of a rule."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch

from thalweg.adaptive.adadelta import adadelta
from thalweg.adaptive.adagrad import adagrad
from thalweg.adaptive.adam import adam
from thalweg.adaptive.adamax import adamax
from thalweg.adaptive.amsgrad import amsgrad
from thalweg.adaptive.nadam import nadam
from thalweg.adaptive.radam import radam
from thalweg.adaptive.rmsprop import rmsprop
from thalweg.adaptive.rmsprop_centred import rmsprop_centred, rmsprop_centred_momentum
from thalweg.adaptive.rmsprop_momentum import rmsprop_momentum
from thalweg.adaptive.rprop import rprop
from thalweg.adaptive.sparse_adam import sparse_adam
from thalweg.basic.asgd import asgd
from thalweg.basic.dampened_momentum import dampened_momentum
from thalweg.basic.momentum import momentum
from thalweg.basic.nesterov import nesterov
from thalweg.basic.sgd import sgd
from thalweg.core.errors import KnobError
from thalweg.core.rule import Rule, clock, combinator
from thalweg.execution.eager import computed_in
from thalweg.execution.knobs import PLACES, Places, Schedules, split_schedules
from thalweg.execution.state import Layout
from thalweg.execution.torch_optim import Optimizer
from thalweg.modern.adafactor import adafactor
from thalweg.modern.muon import match_rms_adamw, muon, muon_heavy_ball
from thalweg.strategies.decay import decayed
from thalweg.strategies.maximised import maximised
from thalweg.strategies.penalised import penalised

Group = Mapping[str, Any]


@combinator
def counted(inner, t=clock):  # type: ignore[no-untyped-def]
    """Counts the steps of a rule that has no clock: torch keeps a `step` for every algorithm."""
    return inner(), t + 1


@cache
def _composed(rule: Rule, counts: bool, penalty: bool, decay: bool, ascends: bool) -> Rule:
    if counts:
        rule = counted(rule)
    if penalty:
        rule = penalised(rule)
    if decay:
        rule = decayed(rule)
    return maximised(rule) if ascends else rule


class _Torchs(Optimizer):
    """A class that torch has too: its constructor is torch's, the step is a rule's."""

    decoupled: ClassVar[bool] = False  # weight decay apart from the gradient, where no flag says so

    def __init_subclass__(cls) -> None:
        torchs = next(c for c in cls.__mro__ if c.__module__.startswith("torch.optim"))
        init = inspect.signature(torchs.__init__)  # type: ignore[misc]
        ours = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in _OURS.items()]
        cls.__signature__ = init.replace(parameters=[*list(init.parameters.values())[1:], *ours])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, execution: str | None = None, flatten: bool = False, **kwargs: Any) -> None:
        self._accept(execution, flatten)
        arguments = self._bound(args, kwargs)
        values, schedules = split_schedules({k: v for k, v in arguments.items() if k != "params"})
        super(Optimizer, self).__init__(arguments["params"], **values)  # torch's own: it comes after ours
        self._finish(schedules)

    def _bound(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        signature: inspect.Signature = type(self).__signature__  # type: ignore[attr-defined]
        known = [name for name in signature.parameters if name != "params"]
        for name in kwargs:
            if name not in (*known, "params"):
                raise KnobError(f"{type(self).__name__} has no knob '{name}': it takes {', '.join(known)}")
        return signature.bind(*args, **kwargs).arguments

    def base(self, group: Group) -> Rule:
        """The rule that a group asks for, apart from weight decay and the sign."""
        raise NotImplementedError

    def rule_of(self, group: Group) -> Rule:
        """The rule that a group's settings ask for."""
        weight_decay = group.get("weight_decay", 0)
        decays = isinstance(weight_decay, torch.Tensor) or weight_decay != 0
        decoupled = group.get("decoupled_weight_decay", self.decoupled)
        rule = self.base(group)
        counts = "t" in self.layout and "t" not in rule.remembers
        return _composed(rule, counts, decays and not decoupled, decays and decoupled, bool(group.get("maximize")))


_OURS = {"execution": None, "flatten": False}
_ADAM = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq", "t": "step"}


class SGD(_Torchs, torch.optim.SGD):
    """Stochastic gradient descent, with momentum, dampening, Nesterov's form (Algorithms 8.1 to 8.3).

    >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
    >>> optimizer = SGD([weight], lr=0.5, momentum=0.9)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.item()
    0.0
    """

    layout: ClassVar[Layout] = {"velocity": "momentum_buffer", "started": None}

    def base(self, group: Group) -> Rule:
        """SGD without momentum, else the form of momentum that is asked for."""
        if group["momentum"] == 0:
            return sgd
        if group["nesterov"]:
            return nesterov
        return momentum if group["dampening"] == 0 else dampened_momentum

    def sparse_of(self, group: Group) -> str:
        """Rows alone where a zero gradient changes nothing."""
        return "rows" if group["momentum"] == 0 and group["weight_decay"] == 0 else "dense"


class Adam(_Torchs, torch.optim.Adam):
    """Adam (Algorithm 8.7), and AMSGrad with `amsgrad=True`.

    >>> weight = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = Adam([weight], lr=lambda t: 0.1 / (1 + t))  # a schedule: a function of the step
    >>> weight.grad = torch.ones(3)
    >>> optimizer.step()
    >>> sorted(optimizer.state[weight])
    ['exp_avg', 'exp_avg_sq', 'step']
    """

    layout: ClassVar[Layout] = _ADAM

    def base(self, group: Group) -> Rule:
        """Adam or AMSGrad."""
        return amsgrad if group["amsgrad"] else adam


class AdamW(Adam, torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019): Adam with decoupled weight decay."""

    decoupled = True


class NAdam(_Torchs, torch.optim.NAdam):
    """NAdam (Dozat 2016)."""

    layout: ClassVar[Layout] = {**_ADAM, "mu_product": "mu_product"}

    def base(self, group: Group) -> Rule:
        """NAdam."""
        return nadam


class RAdam(_Torchs, torch.optim.RAdam):
    """RAdam (Liu et al. 2019)."""

    layout: ClassVar[Layout] = _ADAM

    def base(self, group: Group) -> Rule:
        """RAdam."""
        return radam


class Adamax(_Torchs, torch.optim.Adamax):
    """Adamax (Kingma and Ba 2015, section 7.1)."""

    layout: ClassVar[Layout] = {"m": "exp_avg", "u": "exp_inf", "t": "step"}

    def base(self, group: Group) -> Rule:
        """Adamax."""
        return adamax


class Adadelta(_Torchs, torch.optim.Adadelta):
    """Adadelta (Zeiler 2012)."""

    layout: ClassVar[Layout] = {"r": "square_avg", "u": "acc_delta", "t": "step"}

    def base(self, group: Group) -> Rule:
        """Adadelta."""
        return adadelta


class Adagrad(_Torchs, torch.optim.Adagrad):
    """AdaGrad (Algorithm 8.4)."""

    layout: ClassVar[Layout] = {"r": "sum", "t": "step"}

    def base(self, group: Group) -> Rule:
        """AdaGrad."""
        return adagrad

    def _finish(self, schedules: Schedules) -> None:
        super()._finish(schedules)
        for p, state in self._state.items():  # torch has begun them, in half precision where p has it
            state["sum"] = state["sum"].to(computed_in(p.dtype))

    def sparse_of(self, group: Group) -> str | None:
        """Rows alone: a zero gradient changes nothing, unless weight decay does."""
        return "rows" if group["weight_decay"] == 0 else None


class RMSprop(_Torchs, torch.optim.RMSprop):
    """RMSProp (Algorithm 8.5), centred and with momentum where asked."""

    layout: ClassVar[Layout] = {"r": "square_avg", "mean": "grad_avg", "velocity": "momentum_buffer", "t": "step"}

    def base(self, group: Group) -> Rule:
        """One of the four forms."""
        if group["centered"]:
            return rmsprop_centred_momentum if group["momentum"] > 0 else rmsprop_centred
        return rmsprop_momentum if group["momentum"] > 0 else rmsprop


class Rprop(_Torchs, torch.optim.Rprop):
    """Rprop (Riedmiller and Braun 1993), in the form without backtracking of weights."""

    layout: ClassVar[Layout] = {"previous": "prev", "step_size": "step_size", "t": "step"}

    def base(self, group: Group) -> Rule:
        """Rprop."""
        return rprop


class ASGD(_Torchs, torch.optim.ASGD):
    """Averaged SGD (Polyak and Juditsky 1992); `eval()` puts the average into the parameters."""

    layout: ClassVar[Layout] = {"t": "step", "eta": "eta", "mu": "mu", "ax": "ax"}

    def base(self, group: Group) -> Rule:
        """ASGD."""
        return asgd


class SparseAdam(_Torchs, torch.optim.SparseAdam):
    """Adam for sparse gradients: rows without one stay as they are, moments included."""

    layout: ClassVar[Layout] = _ADAM

    def base(self, group: Group) -> Rule:
        """Adam, in the form that torch has here."""
        return sparse_adam

    def sparse_of(self, group: Group) -> str:
        """Nothing but rows."""
        return "only"

    def _flush(self) -> None:
        super()._flush()
        for state in self._state.values():
            state["step"] = int(state["step"])  # torch keeps a tensor everywhere else


class Adafactor(_Torchs, torch.optim.Adafactor):
    """Adafactor (Shazeer and Stern 2018)."""

    layout: ClassVar[Layout] = {"row": "row_var", "col": "col_var", "variance": "variance", "t": "step"}
    places: ClassVar[Places] = {**PLACES, "eps1": ("eps", 0), "eps2": ("eps", 1), "clip": ("d", None)}
    decoupled = True

    def base(self, group: Group) -> Rule:
        """Adafactor."""
        return adafactor


_matched = match_rms_adamw(muon)
_matched_heavy_ball = match_rms_adamw(muon_heavy_ball)


class Muon(_Torchs, torch.optim.Muon):
    """Muon (Jordan 2024) for matrices; `MuonAdamW` takes every parameter of a model."""

    layout: ClassVar[Layout] = {"buffer": "momentum_buffer"}
    places: ClassVar[Places] = {
        **PLACES,
        "a": ("ns_coefficients", 0),
        "b": ("ns_coefficients", 1),
        "c": ("ns_coefficients", 2),
        "steps": ("ns_steps", None),
    }
    decoupled = True

    def base(self, group: Group) -> Rule:
        """With Nesterov's look ahead or without, and torch's adjustment of lr."""
        if group["adjust_lr_fn"] == "match_rms_adamw":
            return _matched if group["nesterov"] else _matched_heavy_ball
        return muon if group["nesterov"] else muon_heavy_ball
