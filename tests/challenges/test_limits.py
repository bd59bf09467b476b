import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from thalweg import Network
from thalweg.challenges.limits import (
    Memory,
    findings,
    fits,
    gradient_step,
    largest_batch,
    out_of_memory,
    recommended,
    throughput,
)
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly
from thalweg.learning.batches import examples


class FakeMemory:
    """Room for `room` examples of length 1; one in `rare` is three times as long."""

    def __init__(self, room, n=100_000, rare=5000, error=torch.OutOfMemoryError):
        self.room, self.error = room, error
        self.lengths = torch.ones(n)
        self.lengths[rare - 1 :: rare] = 3.0
        self.sizes = []

    def __call__(self, indices):
        self.sizes.append(len(indices))
        if float(self.lengths[indices].sum()) > self.room:
            raise self.error("out of memory")


@pytest.mark.parametrize("room", [3, 10, 100, 777, 4096])
def test_what_is_said_to_fit_does_so_when_every_example_is_a_long_one(room):
    memory = FakeMemory(room)
    found = largest_batch(memory, 100_000, memory.lengths)
    assert found.largest <= room / 3 and found.tried <= room / 3
    assert found.tried >= room // 3 / 1.1
    assert found.longest == pytest.approx(3.0, rel=1e-3)
    assert not [each for each in findings(found, exactly(1.0), exactly(1.0), 1) if each.severity == "warning"]


@pytest.mark.parametrize("room", [10, 777])
def test_where_lengths_are_not_known_it_warns(room):
    found = largest_batch(FakeMemory(room), 100_000)
    assert found.largest > room / 3
    for batch_size in (1, round(room / 2), room):
        (warning, *_) = findings(found, exactly(1.0), exactly(1.0), batch_size)
        assert (warning.name, warning.severity) == ("memory limit", "warning") and "lengths" in warning.advice
        assert warning.remedy.get("batch_size", 1) <= room / 3


def test_no_size_is_tried_above_the_cap_or_the_data():
    for n, cap, largest in ((1000, 64, 64), (50, 8192, 50)):
        memory = FakeMemory(10**9, n=n, rare=10**9)
        found = largest_batch(memory, n, memory.lengths, cap=cap)
        assert max(memory.sizes) == largest == found.tried and found.largest == math.inf
    assert not [each for each in findings(found, exactly(1.0), exactly(1.0), 50) if each.name == "memory limit"]


def test_a_limit_just_under_the_cap_is_found():
    memory = FakeMemory(60, rare=10**9)
    assert 54 <= largest_batch(memory, 1000, memory.lengths, cap=64).tried <= 60


def test_a_model_of_which_no_example_fits_is_refused():
    with pytest.raises(DiagnosisError, match="not even one example fits"):
        largest_batch(FakeMemory(0), 10)


def test_only_a_lack_of_memory_is_caught():
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**50, dtype=torch.uint8)
    assert out_of_memory(real.value)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory"), KeyboardInterrupt()):
        assert not out_of_memory(error)

    def broken(indices):
        raise RuntimeError("out of range")

    with pytest.raises(RuntimeError, match="out of range"):
        largest_batch(broken, 10)


def test_a_gradient_that_runs_out_of_memory_leaves_the_module_as_it_was():
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.seen = nn.Linear(2, 1), 0
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            torch.rand(1)
            if len(x) > 5:
                torch.empty(2**50, dtype=torch.uint8)
            return self.linear(x)

    class Noisy(Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, i):
            return torch.rand(2), torch.ones(1)

    net, data = Network(Hungry(), nn.functional.mse_loss), examples(Noisy())
    before, rng = net.state(), torch.get_rng_state()
    assert not fits(gradient_step(net, data), torch.arange(6))
    assert largest_batch(gradient_step(net, data), 100, torch.ones(100)).tried == 5
    assert all(torch.equal(before[name], value) for name, value in net.state().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters)


class FakeClock:
    """A step of b examples takes as long as it is told to, give or take."""

    def __init__(self, seconds, scatter=0.0):
        self.now, self.seconds, self.scatter = 0.0, seconds, scatter
        self.generator = torch.Generator().manual_seed(0)

    def step(self, b):
        self.now += self.seconds(b) * (1 + self.scatter * float(torch.rand(1, generator=self.generator)))

    def __call__(self):
        return self.now


SIZES = [1, 4, 16, 64, 256, 1024]


@pytest.mark.parametrize("knee", [1.0, 30.0, 300.0])
def test_the_knee_is_where_the_examples_of_a_step_cost_as_much_as_the_step(knee):
    clock = FakeClock(lambda b: 1e-3 * (knee + b))
    found = throughput(clock.step, clock, SIZES)
    assert found.knee.value == pytest.approx(knee)
    assert found.rate(3).value == pytest.approx(64 / (1e-3 * (knee + 64)))
    device = FakeClock(lambda b: 1e-3 * max(knee, b))  # a device that is not full below the knee
    assert throughput(device.step, device, SIZES).knee.value == pytest.approx(knee, rel=0.06, abs=1.1)


def test_a_noisy_clock_gives_an_interval_that_covers():
    inside = 0
    for seed in range(100):
        clock = FakeClock(lambda b: 1e-3 * (50 + b), scatter=0.3)
        clock.generator.manual_seed(seed)
        found = throughput(clock.step, clock, SIZES).knee
        inside += found.low <= 50 <= found.high
    assert inside >= 90


def test_where_time_does_not_grow_yet_the_knee_has_no_upper_end():
    clock = FakeClock(lambda b: 1e-3, scatter=0.2)
    assert throughput(clock.step, clock, SIZES).knee.high == math.inf


def test_the_first_step_of_a_size_does_not_count():
    seen = set()

    def step(b):
        clock.now += 1e-3 * (50 + b) + (0 if b in seen else 10.0)
        seen.add(b)

    clock = FakeClock(None)
    assert throughput(step, clock, SIZES).knee.value == pytest.approx(50)


def test_sizes_that_do_not_rise_are_refused():
    for sizes in ([1, 2], [4, 2, 1], [1, 1, 2]):
        with pytest.raises(DiagnosisError, match="give 3 that rise"):
            throughput(lambda b: None, lambda: 0.0, sizes)


@pytest.mark.parametrize(
    ("knee", "scale", "largest"), [(100, 400, math.inf), (3, 5000, math.inf), (100, 400, 60), (900, 8, 500)]
)
def test_the_batch_that_is_recommended_is_the_one_that_is_soonest_done(knee, scale, largest):
    """Steps times the time of one, (1 + scale/B)(knee + B), over every B that fits."""
    sizes = range(1, int(min(largest, 10_000)) + 1)
    soonest = min(sizes, key=lambda b: (1 + scale / b) * (knee + b))
    found = recommended(Memory(largest, 1.0, 8192), exactly(float(knee)), exactly(float(scale)))
    assert found.value == pytest.approx(soonest, abs=1)


def test_the_recommendation_says_what_it_is_made_of_and_is_a_note():
    memory = Memory(1000, 1.0, 1111)
    (found,) = findings(memory, Measured(100.0, 90.0, 110.0, 8), Measured(400.0, 300.0, 500.0, 64), 1000)
    assert (found.name, found.severity, found.remedy) == ("batch size", "note", {"batch_size": 200})
    assert all(figure in found.what for figure in ("100 examples", "400", "1000 fit"))
    (fine,) = findings(memory, Measured(100.0, 90.0, 110.0, 8), Measured(400.0, 300.0, 500.0, 64), 150)
    assert fine.remedy == {} and "as good" in fine.advice


def test_a_recommendation_that_would_be_a_guess_is_not_made():
    found = findings(Memory(math.inf, 1.0, 8192), exactly(100.0), Measured(4000.0, 30.0, math.inf, 8), 128)[-1]
    assert (found.severity, found.remedy) == ("unclear", {}) and "not known" in found.what
    limited = findings(Memory(150, 1.0, 166), exactly(100.0), Measured(4000.0, 300.0, math.inf, 8), 128)[-1]
    assert limited.severity == "note"  # memory decides


def test_a_batch_under_the_knee_is_said_to_waste_time():
    note, _ = findings(Memory(math.inf, 1.0, 8192), exactly(100.0), exactly(400.0), 25)
    assert (note.name, note.severity) == (
        "throughput knee",
        "note",
    ) and "50 examples at once would be 1.7 times" in note.what


def test_a_batch_that_does_not_fit_is_a_warning():
    found = findings(Memory(90, 1.0, 100), exactly(1.0), exactly(400.0), 128)[0]
    assert (found.name, found.severity, found.remedy) == ("memory limit", "warning", {"batch_size": 90})
