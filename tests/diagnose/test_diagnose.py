import copy
import json
import random

import numpy as np
import pytest
import torch
import typer.testing
from torch import nn

from thalweg import cli
from thalweg.core.errors import AlgorithmError, DiagnosisError, NetworkError, ProblemError, StorageError, ThalwegError
from thalweg.diagnose.diagnose import diagnose
from thalweg.training.fit import fit
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

run_command = typer.testing.CliRunner().invoke
F = nn.functional


def small(model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), n=96, **more):
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(n + 60, 4, generator=drawn)
    targets = (inputs[:, :3] + 0.3 * torch.randn(n + 60, 3, generator=drawn)).argmax(1)
    return Problem(model, (inputs[:n], targets[:n]), (inputs[n:], targets[n:]), **more)


RECIPE = Recipe("sgd", 30, 16, {"lr": 0.3})
FILE = """
import torch
from torch import nn
import thalweg as tw

drawn = torch.Generator().manual_seed(0)
inputs = torch.randn(156, 4, generator=drawn)
targets = (inputs[:, :3] + 0.3 * torch.randn(156, 3, generator=drawn)).argmax(1)
model = lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
small = tw.Problem(model, (inputs[:96], targets[:96]), (inputs[96:], targets[96:]), name="small", batch_size=16)
"""


@pytest.fixture(scope="module")
def healthy():
    return diagnose(small(), RECIPE)


@pytest.fixture(scope="module")
def short():
    return diagnose(small(), RECIPE, steps=2)


def plain(diagnosis):
    """All that a diagnosis says but the time it took."""
    return {name: value for name, value in diagnosis.json().items() if name != "cost"}


def everything_of(module):
    return [
        *(p.clone() for p in module.parameters()), *(b.clone() for b in module.buffers()),
        *(p.grad for p in module.parameters()), *(part.training for part in module.modules()),
    ]  # fmt: skip


def alike(a, b):
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


# What it says


def test_the_same_seed_gives_the_same_diagnosis(healthy):
    assert plain(diagnose(small(), RECIPE)) == plain(healthy)


def test_of_a_healthy_run_nothing_is_said(healthy):
    assert healthy.alarms == [] and healthy.headline == "No difficulty was found."


def test_it_is_strict_json_and_says_its_version(healthy):
    said = healthy.json()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["version"] == 1 and set(said["measurements"]) == {"start", "run", "end"}


def test_going_over_it_gives_findings_the_worst_first():
    found = diagnose(small(), RECIPE.with_(knobs={"lr": 1e-7}))
    assert [finding.severity for finding in found][:1] == ["warning"]
    assert found.headline.startswith("One difficulty was found: lr far too low")
    assert "lr far too low" in found.text()


def test_the_run_that_is_watched_is_the_run_that_is_trained(healthy):
    run, course = Run(small(), RECIPE, 0), healthy.measurements["run"]["course"]
    assert course.losses.tolist() == [step.loss for step in run.advance()]
    assert course.curve == run.curve


def test_the_steps_are_the_recipes_unless_they_are_given(healthy, short):
    assert (healthy.cost.trained, short.cost.trained) == (30, 2)
    with pytest.raises(AlgorithmError, match="the recipe has 30"):
        diagnose(small(), RECIPE, steps=31)


def test_a_run_that_diverges_is_a_finding_not_an_error():
    found = diagnose(small(lambda: nn.Linear(4, 3), loss=lambda z, y: F.mse_loss(z, F.one_hot(y, 3).float())),
                     RECIPE.with_(knobs={"lr": 1e6}))  # fmt: skip
    assert found.alarms[0].finding.name == "lr above the stability limit"


# What it leaves alone


def test_nothing_of_the_user_is_changed():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)).eval()
    module(torch.ones(2, 4)).sum().backward()
    before, state = everything_of(module), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    diagnose(small(module), RECIPE, attempt=True)
    assert alike(before, everything_of(module))
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == random.getstate()
    assert (state[2] == np.random.get_state()[1]).all()


def test_a_run_that_goes_on_after_a_diagnosis_of_its_state_is_not_disturbed():
    problem = small()
    run, other = Run(problem, RECIPE, 0), Run(problem, RECIPE, 0)
    list(run.advance(10)), list(other.advance(10))
    diagnose(problem, RECIPE, checkpoint=run.network.state(), steps=5)
    list(run.advance()), list(other.advance())
    assert torch.equal(run.network.theta, other.network.theta)


# Where it begins


def test_it_goes_on_from_a_folder_of_fit(tmp_path):
    fit(small(), RECIPE, tmp_path / "a")
    anew, later = (diagnose(small(), RECIPE, steps=1, checkpoint=at) for at in (None, tmp_path / "a"))
    assert later.measurements["run"]["course"].reached < anew.measurements["run"]["course"].reached - 0.2


def test_a_folder_without_a_state_is_refused(tmp_path):
    with pytest.raises(StorageError, match="holds no checkpoint"):
        diagnose(small(), RECIPE, checkpoint=tmp_path)


def test_another_models_state_is_refused():
    with pytest.raises(NetworkError, match="another model"):
        diagnose(small(), RECIPE, checkpoint={"theta": torch.zeros(3)})


# Bad input: a clear answer


class Once(torch.autograd.Function):
    """The square, which can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d):
        return 2 * ctx.saved_tensors[0] * d


class Squared(nn.Module):
    def forward(self, x):
        return Once.apply(x)


def test_a_model_that_cannot_be_differentiated_twice_is_still_diagnosed():
    found = diagnose(small(lambda: nn.Sequential(nn.Linear(4, 8), Squared(), nn.Linear(8, 3))), RECIPE, steps=2)
    assert found.measurements["start"]["sharpness"].rung == "finite differences"
    assert found.cost.trained == 2


def test_a_rule_that_looks_at_f_has_no_limit_and_says_so():
    found = diagnose(small(), Recipe("lbfgs", 5, 96, schedule="constant"))
    assert "its step and its limit are not known" in found.refusals["stability, before the first step"]


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ProblemError, match="must give one number"):
        diagnose(small(loss=lambda z, y: F.cross_entropy(z, y, reduction="none")), RECIPE)


def test_no_data_is_refused():
    with pytest.raises(ProblemError, match="empty"):
        small(n=0)


def test_one_batch_is_enough_and_says_what_it_cannot_tell():
    found = diagnose(small(n=12), Recipe("sgd", 5, 12, {"lr": 0.1}))
    assert found.cost.trained == 5


def test_one_example_is_not_an_error():
    assert diagnose(small(n=1), Recipe("sgd", 3, 1, {"lr": 0.1})).cost.trained == 3


def test_weights_that_are_no_numbers_are_named():
    def broken():
        module = nn.Sequential(nn.Linear(4, 3))
        module[0].weight.data[1, 1] = torch.nan
        return module

    with pytest.raises(DiagnosisError, match=r"0.weight has 1 of 12 values that are NaN"):
        diagnose(small(broken), RECIPE)


def test_a_compiled_model_is_looked_into(short):
    def compiled():
        return torch.compile(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), backend="eager")

    assert plain(diagnose(small(compiled), RECIPE, steps=2)) == plain(short)


def test_a_wrapped_model_is_looked_into(short):
    wrapped = lambda: nn.DataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))  # noqa: E731
    assert plain(diagnose(small(wrapped), RECIPE, steps=2)) == plain(short)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ThalwegError, match="parameters"):
        diagnose(small(nn.Identity), RECIPE)


def test_a_module_of_the_user_stays_as_it_was_when_the_diagnosis_fails():
    module = nn.Sequential(nn.Linear(4, 3))
    module[0].weight.data[1, 1] = torch.inf
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(DiagnosisError):
        diagnose(small(module), RECIPE)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# The advice


def test_advice_is_tried_when_asked():
    found = diagnose(small(), RECIPE.with_(knobs={"lr": 1e-5}), attempt=True)
    assert found.tried["lr far too low"].helped
    assert "tried" in found.text() and "tried" in found.json()["causes"][0]


# The command


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def test_the_command_says_what_it_found_and_ends_well(tmp_path):
    RECIPE.with_(knobs={"lr": 1e-6}).save(tmp_path / "recipe.toml")
    (tmp_path / "mine.py").write_text(FILE)
    done = run_command(cli.app, ["diagnose", "mine.py:small", "--recipe", "recipe.toml", "--out", "d"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().startswith("One difficulty was found: lr far too low")
    assert done.stderr.startswith("small: 96 train")
    assert json.loads((tmp_path / "d" / "diagnosis.json").read_text())["version"] == 1
    assert (tmp_path / "d" / "diagnosis.txt").read_text().startswith("One difficulty")
    assert "lr far too low" in (tmp_path / "d" / "diagnosis.html").read_text()


def test_json_alone_is_on_stdout(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    done = run_command(cli.app, ["diagnose", "mine.py:small", "--steps", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["problem"] == "small"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digitz"], "did you mean digits"),
        (["digits", "--recipe", "none.toml"], "no recipe at none.toml"),
        (["digits", "--checkpoint", "nowhere"], "holds no checkpoint"),
        (["digits", "--steps", "5000"], "the recipe has 1020"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said):
    done = run_command(cli.app, ["diagnose", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]


def test_a_batch_size_is_recommended_where_hardware_is_asked_for(healthy):
    found = diagnose(small(), RECIPE, hardware=True)
    memory, taken, scale = found.measurements["end"]["batch size"]
    assert taken.sizes == [1, 4, 16, 64] and memory.tried == 96 and scale.n > 1
    assert next(f.severity for f in found if f.name == "batch size") in ("note", "unclear")
    assert "batch size" not in healthy.measurements["end"]


def test_once_the_time_is_used_up_nothing_more_is_measured():
    found = diagnose(small(), RECIPE, seconds=0.0)
    assert not found.measurements and set(found.refusals.values()) == {"the time given was used up"}
    assert found.cost.trained == 30


def test_what_cannot_be_measured_along_the_run_is_said_with_the_reason():
    def of_pairs(z, y):
        if len(z) < 2:
            raise ValueError("examples are compared: give two or more")
        return F.cross_entropy(z, y)

    found = diagnose(small(loss=of_pairs), RECIPE)
    assert found.refusals["losses of examples, along the run"] == "examples are compared: give two or more"
    assert found.measurements["run"]["overfitting"] is not None  # from the curve of the whole
