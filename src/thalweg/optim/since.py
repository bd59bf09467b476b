"""The classes that torch.optim does not have: their arguments are the knobs of their rule."""

from __future__ import annotations

from typing import Any, ClassVar

from thalweg.adaptive.amsgrad import amsgrad
from thalweg.basic.momentum import momentum
from thalweg.core.rule import Rule
from thalweg.execution.torch_optim import Optimizer
from thalweg.modern.adabelief import adabelief
from thalweg.modern.adam_atan2 import adam_atan2
from thalweg.modern.adan import adan
from thalweg.modern.ademamix import ademamix
from thalweg.modern.adopt import adopt
from thalweg.modern.dadapt_adam import dadapt_adam
from thalweg.modern.dog import dog
from thalweg.modern.lamb import lamb
from thalweg.modern.lars import lars
from thalweg.modern.lion import lion
from thalweg.modern.muon_adamw import muon_adamw
from thalweg.modern.prodigy import prodigy
from thalweg.modern.psgd_kron import psgd_kron
from thalweg.modern.sam import sharpness_aware
from thalweg.modern.schedule_free_adamw import schedule_free_adamw
from thalweg.modern.schedule_free_sgd import schedule_free_sgd
from thalweg.modern.shampoo import shampoo
from thalweg.modern.soap import soap
from thalweg.modern.sophia import sophia
from thalweg.strategies.decay import decayed


class _Ours(Optimizer):
    """A class that torch does not have: its arguments are the rule's knobs, betas as a pair, and weight decay."""

    _declared: ClassVar[Rule]

    def __init_subclass__(cls, rule: Rule | None = None) -> None:
        if rule is not None:  # a subclass of such a class (Lightning makes one) keeps its rule
            cls._declared = rule if "weight_decay" in rule.knobs else decayed(rule, weight_decay=0.0)

    def __init__(self, params: Any, lr: Any = None, **settings: Any) -> None:
        super().__init__(params, self._declared, **({} if lr is None else {"lr": lr}), **settings)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_rule"]  # the class has it, and a rule cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._rule = self._declared
        super().__setstate__(state)


class Lion(_Ours, rule=lion):
    """Lion (Chen et al. 2023)."""


class Adan(_Ours, rule=adan):
    """Adan (Xie et al. 2022)."""


class AdaBelief(_Ours, rule=adabelief):
    """AdaBelief (Zhuang et al. 2020)."""


class AMSGrad(_Ours, rule=amsgrad):
    """AMSGrad (Reddi et al. 2018), as Adam has it with `amsgrad=True`."""


class AdamAtan2(_Ours, rule=adam_atan2):
    """Adam-atan2 (Everett et al. 2024): no eps."""


class AdEMAMix(_Ours, rule=ademamix):
    """AdEMAMix (Pagliardini et al. 2024)."""


class ADOPT(_Ours, rule=adopt):
    """ADOPT (Taniguchi et al. 2024)."""


class LAMB(_Ours, rule=lamb):
    """LAMB (You et al. 2020)."""


class LARS(_Ours, rule=lars):
    """LARS (You et al. 2017)."""


class MuonAdamW(_Ours, rule=muon_adamw):
    """Muon for matrices and kernels, AdamW for the rest, in one optimizer (Jordan 2024)."""


class Shampoo(_Ours, rule=shampoo):
    """Shampoo (Gupta et al. 2018)."""


class SOAP(_Ours, rule=soap):
    """SOAP (Vyas et al. 2024)."""


class PSGDKron(_Ours, rule=psgd_kron):
    """PSGD with Kronecker factors (Li 2018)."""


class ScheduleFreeSGD(_Ours, rule=schedule_free_sgd):
    """Schedule-free SGD (Defazio et al. 2024); evaluate between `eval()` and `train()`."""


class ScheduleFreeAdamW(_Ours, rule=schedule_free_adamw):
    """Schedule-free AdamW (Defazio et al. 2024); evaluate between `eval()` and `train()`."""


class Prodigy(_Ours, rule=prodigy):
    """Prodigy (Mishchenko and Defazio 2023): it finds its own lr; that of a group is a factor."""


class DAdaptAdam(_Ours, rule=dadapt_adam):
    """D-Adaptation for Adam (Defazio and Mishchenko 2023): it finds its own lr."""


class DoG(_Ours, rule=dog):
    """Distance over gradients (Ivgi et al. 2023): it finds its own lr."""


class Sophia(_Ours, rule=sophia):
    """Sophia (Liu et al. 2023); `step(closure)`, the closure returning the loss without calling backward."""


class SAM(Optimizer):
    """Sharpness-aware minimisation (Foret et al. 2021) of any rule: `SAM(params, momentum, lr=0.1, rho=0.05)`.

    `step(closure)`: the closure zeroes the gradients, computes the loss and calls backward; it is run twice.

    >>> import torch
    >>> from thalweg import sgd
    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SAM([weight], sgd, lr=0.1, rho=0.5)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (weight**2).sum()
    ...     loss.backward()
    ...     return loss
    >>> loss = optimizer.step(closure)
    >>> weight.item()  # 1 - 0.1 * 2 * (1 + 0.5)
    0.699999988079071
    """

    def __init__(self, params: Any, rule: Rule = momentum, **settings: Any) -> None:
        super().__init__(params, sharpness_aware(rule), **settings)
