"""What torch refuses is refused, with the same error and a message that says as much."""

import copy
import inspect
import itertools
import re

import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum

from thalweg import optim

FLAGS = ("foreach", "fused", "differentiable", "capturable")


def fresh(given):
    return [torch.nn.Parameter(torch.ones(1, 1))] if given is None else given


def test_every_error_input_of_torch_raises_the_same_error(info):
    inputs = info.optim_error_inputs_func(device="cpu", dtype=torch.float64)
    assert len(inputs) >= 7
    for wrong in inputs:
        given, match = wrong.optimizer_error_input, wrong.error_regex
        kwargs = copy.deepcopy(given.kwargs)
        if wrong.error_on is OptimizerErrorEnum.STEP_ERROR:
            optimizer = info.optim_cls(fresh(given.params), **kwargs)
            with pytest.raises(wrong.error_type, match=match):
                optimizer.step()
        elif issubclass(wrong.error_type, Warning):
            with pytest.warns(wrong.error_type, match=match):
                info.optim_cls(fresh(given.params), **kwargs)
        else:
            with pytest.raises(wrong.error_type, match=match):
                info.optim_cls(fresh(given.params), **kwargs)


def test_flags_that_torch_refuses_together_are_refused_with_the_same_error(info, parameters):
    torchs = getattr(torch.optim, info.name)
    known = [flag for flag in FLAGS if flag in info.optim_cls.__signature__.parameters]
    for values in itertools.product([None, True], repeat=len(known)):
        kwargs = {flag: True for flag, value in zip(known, values, strict=True) if value}
        try:
            torchs(parameters(info.name), **kwargs)
        except (RuntimeError, ValueError) as error:
            with pytest.raises(type(error), match=re.escape(str(error))):
                info.optim_cls(parameters(info.name), **kwargs)
        else:
            info.optim_cls(parameters(info.name), **kwargs)


@pytest.mark.of(lambda info: "fused" in info.supported_impls)
def test_fused_and_differentiable_exclude_each_other(info, parameters):
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        info.optim_cls(parameters(), fused=True, differentiable=True)


def test_the_arguments_are_torchs_and_two_more(info):
    torchs = inspect.signature(getattr(torch.optim, info.name)).parameters
    assert list(inspect.signature(info.optim_cls).parameters) == [*torchs, "execution", "flatten"]


def test_every_class_of_torch_is_there_but_lbfgs():
    theirs = {n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)}
    assert theirs <= set(optim.__all__)
