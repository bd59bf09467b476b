"""A problem is checked before anything is spent on it, and known again by its fingerprint."""

import pickle
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from thalweg.core.errors import ProblemError
from thalweg.learning.risk import Metric, accuracy
from thalweg.training.load import load
from thalweg.training.problem import Problem

DRAW = torch.Generator().manual_seed(0)
X, LABELS = torch.randn(60, 4, generator=DRAW), torch.arange(60) % 3
Y = X.sum(1, keepdim=True)


def classifier(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))


def problem(model=classifier, x=X, y=LABELS, loss=F.cross_entropy, **others) -> Problem:
    return Problem(model, (x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:]), loss=loss, **others)


def regression(y=Y, **others) -> Problem:
    return problem(**{"model": partial(nn.Linear, 4, 1), "y": y, "loss": F.mse_loss, **others})


class Noisy(Dataset):
    """Augmented with numpy's random numbers: no two readings are alike."""

    def __init__(self) -> None:
        self.random = np.random.default_rng()

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.from_numpy(self.random.normal(size=4).astype(np.float32)), i % 3


def test_good_problems_pass():
    problem().check()
    problem(metric=accuracy).check()
    regression().check()
    Problem(classifier, Noisy(), Noisy()).check()


def test_checking_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    problem(lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 3))).check()
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_metric_the_loss_counts():
    assert problem().metric.name == "cross_entropy" and not problem().metric.higher_is_better


def test_steps_are_epochs_of_batches_the_short_one_counted():
    assert problem(epochs=3, batch_size=32).steps == 6


def test_a_network_is_a_function_of_its_seed():
    assert torch.equal(problem().network(3).theta, problem().network(3).theta)
    assert not torch.equal(problem().network(3).theta, problem().network(4).theta)


def test_a_module_is_initialised_anew_and_left_alone():
    module = classifier()
    before = module[0].weight.clone()
    network = problem(module).network(1)
    network.theta.zero_()
    assert torch.equal(module[0].weight, before)
    assert torch.equal(problem(module).network(2).theta, problem(classifier).network(2).theta)


def test_a_layer_that_cannot_be_initialised_anew_is_refused():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    with pytest.raises(ProblemError, match=r"the layer '1' cannot be initialised anew .*pass a function"):
        problem(nn.Sequential(nn.Linear(4, 3), Scale())).network(0)


def with_one(values, where, value):
    values = values.clone()
    values[where] = value
    return values


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: problem(partial(classifier, 2)), r"the train targets hold class 2, the model gives outputs \(4, 2\)"),
        (lambda: problem(y=with_one(LABELS, 45, 7)), r"the valid targets hold class 7, .* \(4, 3\)"),
        (lambda: problem(y=with_one(LABELS, 55, -1)), r"the test targets hold class -1"),
        (lambda: problem(partial(nn.Linear, 5, 3)), r"the model does not take the inputs \(\(4, 4\) float32\): .*mat1"),
        (lambda: problem(x=X.long()), r"the model does not take the inputs \(\(4, 4\) int64\): .*dtype"),
        (lambda: problem(y=LABELS.float()), r"does not take .* \(\(4, 3\) float32 and \(4,\) float32\): .*Float"),
        (lambda: regression(Y[:, 0]), r"\(\(4, 1\) float32 and \(4,\) float32\): .*broadcasting"),
        (
            lambda: problem(partial(nn.LSTM, 4, 3)),
            r"does not take the outputs and targets \(a tuple and \(4,\) int64\)",
        ),
        (lambda: problem(nn.Module), "nothing to optimise"),
        (lambda: problem(list), r"model\(\) returned a list"),
        (
            lambda: regression(loss=partial(F.mse_loss, reduction="none")),
            r"the loss gives \(4, 1\) float32 for a batch",
        ),
        (lambda: regression(loss=lambda o, t: 1.0), "the loss gives a float for a batch"),
        (lambda: regression(loss=lambda o, t: F.mse_loss(o.detach(), t)), "the loss has no gradient"),
        (lambda: regression(Y * 1e30), "the loss of a new model is inf"),
        (
            lambda: problem(metric=Metric("f", lambda o, t: (o - t).mean(), True)),
            r"the metric does not take .*\(10, 3\)",
        ),
        (lambda: problem(x=with_one(X, (3, 1), torch.nan)), "the train inputs hold 1 NaN and 0 infinite numbers"),
        (lambda: problem(x=with_one(X, 45, -torch.inf)), "the valid inputs hold 0 NaN and 4 infinite numbers"),
        (lambda: regression(with_one(Y, 59, torch.nan)), "the test targets hold 1 NaN"),
        (lambda: problem(metric=F.l1_loss), "does not say which way is better"),
        (lambda: Problem(classifier, None, (X, LABELS)), "the problem has no train data"),
    ],
)
def test_what_does_not_fit_is_said_with_its_shapes(wrong, message):
    with pytest.raises((ProblemError, Exception), match=message) as caught:
        wrong().check()
    assert type(caught.value).__module__ == "thalweg.core.errors"
    assert "\n" not in str(caught.value)


def test_a_broadcast_is_refused_even_where_warnings_are_silenced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ProblemError, match="broadcasting"):
            regression(Y[:, 0]).check()


def test_ignored_targets_are_no_classes():
    problem(y=with_one(LABELS, 45, -100)).check()
    problem(y=with_one(LABELS, 45, 9), loss=nn.CrossEntropyLoss(ignore_index=9)).check()


def test_the_fingerprint_knows_data_model_loss_and_metric():
    others = [
        problem(),
        problem(metric=accuracy),
        problem(y=(LABELS + 1) % 3),
        problem(x=with_one(X, (59, 0), 0.0)),
        problem(partial(classifier, 4)),
        problem(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))),
        problem(loss=nn.CrossEntropyLoss()),
        problem(loss=nn.CrossEntropyLoss(label_smoothing=0.3)),
        problem(loss=lambda o, t: F.cross_entropy(o, t)),
        problem(loss=lambda o, t: 2 * F.cross_entropy(o, t)),
        problem(loss=partial(F.cross_entropy, label_smoothing=0.3)),
    ]
    assert len({one.fingerprint() for one in others}) == len(others)
    assert problem().fingerprint() == problem().fingerprint()


def test_the_same_bytes_in_another_shape_are_other_data():
    inputs = X[:, :2].contiguous(), X[:, :2].reshape(-1, 1, 2)
    wide, tall = (Problem(partial(nn.Linear, 2, 1), (x, x), (x, x), loss=mean) for x in inputs)
    assert wide.fingerprint() != tall.fingerprint()


def mean(outputs, targets):
    return outputs.mean()


def test_a_random_dataset_keeps_its_fingerprint():
    assert Problem(classifier, Noisy(), Noisy()).fingerprint() == Problem(classifier, Noisy(), Noisy()).fingerprint()


ODD = """
from functools import partial
import torch
from torch import nn
from thalweg.training.problem import Problem

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(4, 3), torch.tanh

    def extra_repr(self):
        return f"{self.act} {object()} {loss}"

    def forward(self, x):
        return self.act(self.layer(x))

def loss(outputs, targets, scale=1.0):
    return scale * nn.functional.cross_entropy(outputs, targets)

x, y = torch.ones(6, 4), torch.arange(6) % 3
problem = Problem(Odd, (x, y), (x, y), loss=partial(loss, scale=2.0))
"""


def test_the_fingerprint_is_the_same_in_another_process(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    command = [sys.executable, "-c", "from odd import problem; print(problem.fingerprint())"]
    other = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert load(f"{tmp_path}/odd.py:problem").fingerprint() == other


def test_a_problem_travels_to_another_process():
    again = pickle.loads(pickle.dumps(problem()))
    assert again.fingerprint() == problem().fingerprint()
