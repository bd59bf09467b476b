"""The optimizers and the monitor inside what people use: Lightning, Accelerate, skorch, Transformers, DDP, FSDP."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

from thalweg import adam, momentum, optim
from thalweg.core.errors import AlgorithmError

EXTRA = ("lightning", "accelerate", "skorch", "transformers", "tensorboard")
MISSING = [name for name in EXTRA if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: `make frameworks` does, and runs these tests"
)

HERE = Path(__file__).parent
EXAMPLES = sorted((HERE.parents[1] / "examples" / "frameworks").glob("*.py"))
SAID = {
    "accelerate_loop.py": r"loss (\d\.\d+) at the end of the second epoch, \1 from its saved start",
    "data_parallel.py": r"9\d\.\d% right after 100 steps of two processes",
    "fully_sharded.py": r"9\d\.\d% right; 4096 of the 8192 averages of the first layer are here",
    "lightning_module.py": r"9\d\.\d% right after 4 epochs, lr 0\.0024",
    "lightning_monitor.py": r"290 steps; sorted data",
    "tensorboard_monitor.py": r"116 losses, 116 steps",
    "transformers_monitor.py": r"(?s).*116 steps; lr far too low",
    "skorch_classifier.py": r"\{'lr': .*'optimizer__betas': .*\}: 9\d\.\d% right",
}
OPTIMIZERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "AdamW": lambda params: optim.AdamW(params, lr=lambda t: 0.005 / (1 + t)),  # it has the last word on lr
    "Lion": lambda params: optim.Lion(params, lr=0.002),
    "ScheduleFreeAdamW": lambda params: optim.ScheduleFreeAdamW(params, lr=0.01),
}
each = pytest.mark.parametrize("optimizer_of", OPTIMIZERS.values(), ids=OPTIMIZERS)


def program(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits():
    pixels, labels = load_digits(return_X_y=True)
    return (pixels / 16).astype("float32"), labels


def batches(size=64):
    x, y = map(torch.from_numpy, digits())
    return DataLoader(TensorDataset(x[:640], y[:640]), batch_size=size)


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# The examples


@pytest.mark.program
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_says_what_it_should(example, tmp_path):
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40
    assert re.fullmatch(SAID[example.name], program(tmp_path, example).strip())


def test_every_example_is_linked_from_the_page():
    page = (HERE.parents[1] / "docs" / "frameworks.md").read_text(encoding="utf-8")
    assert EXAMPLES and all(f"(../examples/frameworks/{example.name})" in page for example in EXAMPLES)


# Two processes, each with half of every batch


@pytest.mark.program
def test_two_processes_end_where_one_does_and_so_does_a_resumed_run(tmp_path):
    program(tmp_path, HERE / "two_processes.py", tmp_path)
    found = torch.load(tmp_path / "found.pt")
    expected = found.pop("alone")
    assert list(found) == ["data parallel", "sharded", "resumed"]
    for how, ends in found.items():
        for name, end in ends.items():
            for a, b in zip(end, expected[name], strict=True):
                assert (a - b).abs().max() < 1e-6, f"{name}, {how}"


@pytest.fixture
def mesh(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["LAMB", "MuonAdamW", "DoG"])
def test_a_rule_that_is_not_elementwise_refuses_shards(name, mesh):
    model = fully_shard(network(), mesh=mesh)
    before = [p.to_local().clone() for p in model.parameters()]
    optimizer = getattr(optim, name)(model.parameters())
    model(torch.ones(2, 64)).sum().backward()
    with pytest.raises(AlgorithmError, match=f"{name} looks at a whole .* take an elementwise rule"):
        optimizer.step()
    assert same([p.to_local() for p in model.parameters()], before) and not optimizer.state


# Lightning


def lightnings_own(test):
    """Lets through what Lightning says of its own use of torch's trees, and advice that it gives on many cores."""
    for said in (
        r".isinstance\(treespec, LeafSpec\):FutureWarning",
        r"The 'train_dataloader' does not have many workers:UserWarning",
    ):
        test = pytest.mark.filterwarnings(rf"ignore:{said}:lightning\.")(test)
    return test


@pytest.fixture
def lightning_run():
    lightning = pytest.importorskip("lightning")

    class Digits(lightning.LightningModule):
        def __init__(self, optimizer_of):
            super().__init__()
            self.network, self.optimizer_of = network(), optimizer_of

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = self.optimizer_of(self.parameters())
            return [optimizer], [ExponentialLR(optimizer, 0.5)]

    def run(optimizer_of, epochs, **fit):
        off = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, gradient_clip_val=1.0, **off)
        trainer.fit(Digits(optimizer_of), batches(), **fit)
        return trainer

    return run


@lightnings_own
@each
def test_lightning_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(optimizer_of, lightning_run, tmp_path):
    whole = lightning_run(optimizer_of, 3)
    lightning_run(optimizer_of, 1).save_checkpoint(tmp_path / "first.ckpt")
    resumed = lightning_run(optimizer_of, 3, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert same(resumed.model.parameters(), whole.model.parameters())
    assert resumed.model.optimizers().param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"]


@lightnings_own
@pytest.mark.parametrize("name", [name for name in optim.__all__ if name not in ("KFAC", "EKFAC")])  # of a model
def test_every_class_lies_in_the_wrapper_of_lightning(name):
    wrapper = pytest.importorskip("lightning.pytorch.core.optimizer").LightningOptimizer
    made, parameter = getattr(optim, name), nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    optimizer = made([parameter], adam) if name == "Optimizer" else made([parameter])
    wrapped = wrapper(optimizer)
    assert isinstance(wrapped, made)
    assert wrapped.param_groups is optimizer.param_groups and wrapped.state_dict() == optimizer.state_dict()
    wrapped.zero_grad(set_to_none=True)
    assert parameter.grad is None


# Accelerate


@pytest.fixture
def accelerate_run():
    accelerate = pytest.importorskip("accelerate")

    def run(optimizer_of, epochs, size=64, accumulate=1, saved=None):
        """An accelerator, the model and the wrapped optimizer after these epochs; from a saved state, if any."""
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        model = network()
        optimizer = optimizer_of(model.parameters())
        schedule = ExponentialLR(optimizer, 0.9)
        model, optimizer, data, schedule = accelerator.prepare(model, optimizer, batches(size), schedule)
        if saved:
            accelerator.load_state(saved)
        for _ in range(epochs):
            for x, y in data:
                with accelerator.accumulate(model):
                    accelerator.backward(nn.functional.cross_entropy(model(x), y))
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad(set_to_none=True)
        return accelerator, model, optimizer

    return run


@each
def test_accelerate_goes_on_from_a_saved_state_as_if_it_had_not_stopped(optimizer_of, accelerate_run, tmp_path):
    _, whole, optimizer = accelerate_run(optimizer_of, 3)
    accelerate_run(optimizer_of, 1)[0].save_state(str(tmp_path / "first"))
    _, resumed, wrapped = accelerate_run(optimizer_of, 2, saved=str(tmp_path / "first"))
    assert same(resumed.parameters(), whole.parameters())
    assert wrapped.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 0.1


@each
def test_two_small_batches_accumulated_by_accelerate_are_one_large_one(optimizer_of, accelerate_run):
    _, large, _ = accelerate_run(optimizer_of, 1)
    _, small, _ = accelerate_run(optimizer_of, 1, size=32, accumulate=2)
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


# skorch


@pytest.fixture
def classifier():
    skorch = pytest.importorskip("skorch")

    def made(optimizer, **options):
        options = {"max_epochs": 10, "batch_size": 64, "train_split": None, "verbose": 0} | options
        return skorch.NeuralNetClassifier(network(), criterion=nn.CrossEntropyLoss, optimizer=optimizer, **options)

    return made


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (optim.SGD, {"lr": 0.1, "optimizer__momentum": 0.9}),
        (optim.AdamW, {"lr": 0.005}),
        (optim.Lion, {"optimizer__lr": lambda t: 0.003 / (1 + t / 100)}),
        (optim.SAM, {"lr": 0.1, "optimizer__rule": momentum, "optimizer__rho": 0.05}),  # skorch steps with a closure
    ],
    ids=["SGD", "AdamW", "Lion", "SAM"],
)
def test_a_classifier_of_skorch_learns_digits(optimizer, settings, classifier):
    x, test_x, y, test_y = train_test_split(*digits(), random_state=0)
    assert classifier(optimizer, **settings).fit(x, y).score(test_x, test_y) > 0.9


def test_skorch_sets_a_knob_of_an_optimizer_that_is_there(classifier):
    net = classifier(optim.NAdam, optimizer__param_groups=[("0.*", {"lr": 0.1})]).initialize()
    assert net.get_params()["optimizer"] is optim.NAdam
    assert [group["lr"] for group in net.optimizer_.param_groups] == [0.1, 0.01]
    net.set_params(optimizer__param_groups__0__lr=0.2)
    assert [group["lr"] for group in net.optimizer_.param_groups] == [0.2, 0.01]
    net.set_params(lr=0.3)
    assert [group["lr"] for group in net.optimizer_.param_groups] == [0.3, 0.3]


def test_skorch_goes_on_from_what_it_saved_as_if_it_had_not_stopped(classifier, tmp_path):
    x, y = digits()
    files = {"f_params": tmp_path / "model.pt", "f_optimizer": tmp_path / "optimizer.pt"}
    whole = classifier(optim.RAdam, max_epochs=2).fit(x, y)
    classifier(optim.RAdam, max_epochs=1).fit(x, y).save_params(**files)
    resumed = classifier(optim.RAdam, max_epochs=1).initialize()
    resumed.load_params(**files)
    assert same(resumed.partial_fit(x, y).module_.parameters(), whole.module_.parameters())


def test_a_scheduler_of_skorch_changes_lr(classifier):
    scheduler = pytest.importorskip("skorch.callbacks").LRScheduler(ExponentialLR, gamma=0.5)
    net = classifier(optim.AdamW, lr=0.008, max_epochs=3, callbacks=[scheduler]).fit(*digits())
    assert net.optimizer_.param_groups[0]["lr"] == 0.001
