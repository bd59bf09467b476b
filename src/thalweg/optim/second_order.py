"""The classes of algorithms that evaluate the objective themselves: `step(closure)`, all parameters one vector."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Rule
from thalweg.execution.closure import Objective, Squares
from thalweg.execution.closure_optim import ClosureOptimizer
from thalweg.second_order.bfgs import bfgs
from thalweg.second_order.conjugate_gradients import hager_zhang_cg
from thalweg.second_order.ekfac import ekfac
from thalweg.second_order.gauss_newton import gauss_newton
from thalweg.second_order.hessian_free import hessian_free
from thalweg.second_order.kfac import kfac
from thalweg.second_order.lbfgs import lbfgs, lbfgs_with
from thalweg.second_order.levenberg_marquardt import levenberg_marquardt
from thalweg.second_order.line_search import armijo, fixed, hager_zhang, wolfe
from thalweg.second_order.natural_gradient import natural_gradient
from thalweg.second_order.newton import newton
from thalweg.second_order.newton_cg import newton_cg
from thalweg.second_order.saddle_free_newton import saddle_free_newton
from thalweg.second_order.stochastic_lbfgs import stochastic_lbfgs
from thalweg.second_order.trust_newton import trust_krylov


class _Closed(ClosureOptimizer):
    """A class of its own: its arguments are the rule's knobs, and those of `ClosureOptimizer`."""

    _declared: ClassVar[Rule]

    def __init_subclass__(cls, rule: Rule | None = None) -> None:
        if rule is not None:
            cls._declared = rule

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, self._declared, **settings)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_module": self._module, "_loss": self._loss, "_rungs": self._rungs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._rule = self._declared  # the class has it, and a rule cannot be pickled
        super().__setstate__(state)


SEARCHES = {"strong_wolfe": wolfe, "hager_zhang": hager_zhang, "armijo": armijo, None: fixed}


class LBFGS(_Closed, rule=lbfgs):
    """L-BFGS (Nocedal 1980), with torch's arguments, and groups, several devices, complex parameters and `maximize`.

    `line_search_fn` is "strong_wolfe" (in float32 with Hager and Zhang's conditions), "hager_zhang", "armijo" or None:
    steps of lr, whatever comes of them. The tolerances are relative: to the first gradient where that is below 1, and
    to the loss. The first step changes the parameters by a hundredth, whatever the scale of the loss; torch's is
    shorter or longer with it.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        **settings: Any,
    ) -> None:
        if line_search_fn not in SEARCHES:
            known = ", ".join(map(repr, SEARCHES))
            raise AlgorithmError(f"LBFGS has no line_search_fn {line_search_fn!r}: there are {known}")
        self._searching = line_search_fn
        super().__init__(
            params,
            lr=lr,
            max_iter=max_iter,
            max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            **settings,
        )
        self._rule = _LBFGS[line_search_fn]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_searching": self._searching}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rule = _LBFGS[self._searching]


_LBFGS = {name: lbfgs_with(search) for name, search in SEARCHES.items()}


class BFGS(_Closed, rule=bfgs):
    """BFGS (Nocedal and Wright 2006, Algorithm 6.1): the inverse Hessian, whole, for up to some thousand parameters."""


class StochasticLBFGS(_Closed, rule=stochastic_lbfgs):
    """L-BFGS on batches (Berahas et al. 2016): curvature from the same batch before and after a step, damped."""


class NonlinearCG(_Closed, rule=hager_zhang_cg):
    """Nonlinear conjugate gradients (Hager and Zhang 2005), over the whole vector."""


class Newton(_Closed, rule=newton):
    """Newton's method (Algorithm 8.8), regularised, with a line search; it needs the whole Hessian."""


class NewtonCG(_Closed, rule=newton_cg):
    """Newton's method by conjugate gradients (Dembo and Steihaug 1983), on products with the Hessian."""


class TrustKrylov(_Closed, rule=trust_krylov):
    """Newton's method in a trust region, by Lanczos (Gould et al. 1999), on products with the Hessian."""


class SaddleFreeNewton(_Closed, rule=saddle_free_newton):
    """Saddle-free Newton (Dauphin et al. 2014): steps that saddles repel."""


class HessianFree(_Closed, rule=hessian_free):
    """Hessian-free optimisation (Martens 2010); the closure returns (loss, outputs) without calling backward."""


class NaturalGradient(_Closed, rule=natural_gradient):
    """The natural gradient (Amari 1998): `loss` is the likelihood, such as CrossEntropyLoss(); the closure as for
    `HessianFree`."""


class _OfResiduals(_Closed):
    """A class that minimises half a sum of squares: the closure returns the residuals, without calling backward."""

    _objective: ClassVar[type[Objective]] = Squares

    def __init__(self, params: Any, *, maximize: bool = False, **settings: Any) -> None:
        if maximize:
            raise AlgorithmError(f"{type(self).__name__} minimises a sum of squares, which has no maximum")
        super().__init__(params, **settings)


class GaussNewton(_OfResiduals, rule=gauss_newton):
    """Gauss-Newton (Nocedal and Wright 2006, section 10.3); the closure returns the residuals, a tensor."""


class LevenbergMarquardt(_OfResiduals, rule=levenberg_marquardt):
    """Levenberg and Marquardt in a trust region (Moré 1978); the closure returns the residuals, a tensor."""


class _OfModule(_Closed):
    """A class that looks at layers: it takes the model, and the loss as a function of outputs and targets."""

    def __init__(self, model: nn.Module, loss: Any, **settings: Any) -> None:
        if not isinstance(model, nn.Module):
            raise AlgorithmError(f"{type(self).__name__} looks at layers: give the model, not {type(model).__name__}")
        params = [p for p in model.parameters() if p.requires_grad]
        super().__init__(params, module=model, loss=loss, **settings)


class KFAC(_OfModule, rule=kfac):
    """K-FAC (Martens and Grosse 2015): `KFAC(model, loss)`; the closure returns (loss, outputs) without backward."""


class EKFAC(_OfModule, rule=ekfac):
    """EKFAC (George et al. 2018): `EKFAC(model, loss)`; the closure returns (loss, outputs) without backward."""
