import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.challenges.units import findings, units
from thalweg.core.errors import DiagnosisError

F = nn.functional


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def looked_at(module, *inputs):
    network = Network(module, F.cross_entropy, own=False)
    return units(network, *(Batch(x, torch.zeros(len(x), dtype=torch.long)) for x in inputs))


def alarms(found):
    return [finding for finding in findings(found) if finding.severity != "note"]


def relus(dead=0, width=50):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 10))
    with torch.no_grad():
        module[0].bias[:dead] = -100.0
    return module


@pytest.mark.parametrize("dead", [0, 1, 17, 50])
def test_exactly_the_units_that_were_killed_are_dead(dead):
    (found,) = looked_at(relus(dead), drawn(400, 20)).activations
    assert (found.name, found.layer, found.kind, found.units) == ("relu after 0", "0", "relu", 50)
    assert found.dead == (dead / 50, dead / 50, dead / 50, 400)
    assert found.zeros.value == pytest.approx(0.5 + dead / 100, abs=0.05)


@pytest.mark.parametrize(
    ("dead", "severity"), [(5, "note"), (20, "note"), (30, "warning"), (45, "critical"), (50, "critical")]
)
def test_dead_units_are_found_in_their_layer(dead, severity):
    (finding,) = findings(looked_at(relus(dead), drawn(400, 20)))
    assert (finding.name, finding.severity, finding.where) == ("dead units", severity, "0")
    assert f"{dead} of 50 units are 0 on all 400 examples: each fires on less than 0.8%" in finding.what
    assert finding.remedy == ({} if severity == "note" else {"init": "he_normal"})


def test_a_unit_is_dead_only_if_it_is_on_every_batch():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(2))
    one, other = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    assert looked_at(module, one, one).activations[0].dead.value == 0.5
    assert looked_at(module, one, other).activations[0].dead.value == 0


def test_units_that_fire_seldom_are_not_called_dead():
    """Each fires on about one of eighty examples: most of them on none of forty."""
    module = nn.Sequential(nn.Linear(200, 200, bias=False), nn.ReLU())
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(200))
    inputs = (torch.rand(40, 200, generator=torch.Generator().manual_seed(0)) < 0.012).float()
    found = looked_at(module, inputs)
    assert found.activations[0].dead.value > 0.5 > found.activations[0].dead.low
    (finding,) = findings(found)
    assert finding.severity == "unclear" and "more than 40 examples" in finding.advice


def test_few_examples_are_not_enough_to_call_a_layer_dead():
    (finding,) = findings(looked_at(relus(45), drawn(8, 20)))
    assert finding.severity == "unclear"


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.function = nn.Linear(20, 30), nn.Linear(30, 10), function
        with torch.no_grad():
            self.one.bias[:12] = -100.0

    def forward(self, x):
        return self.two(self.function(self.one(x)))


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.relu,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        lambda x: F.relu(x, inplace=True),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(0),
        lambda x: torch.clamp_min(x, 0.0),
    ],
)
def test_a_relu_is_heard_however_it_is_written(function):
    (found,) = looked_at(Functional(function), drawn(100, 20)).activations
    assert (found.name, found.units, found.dead.value) == ("relu after one", 30, 0.4)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (torch.tanh, "tanh"),
        (torch.Tensor.tanh, "tanh"),
        (nn.Tanh(), "tanh"),
        (torch.sigmoid, "sigmoid"),
        (nn.Sigmoid(), "sigmoid"),
        (torch.Tensor.sigmoid_, "sigmoid"),
    ],
)
def test_saturation_is_heard_however_it_is_written(function, kind):
    (found,) = looked_at(Functional(function), drawn(100, 20)).activations
    assert (found.kind, found.role) == (kind, "hidden")
    assert found.saturated.value == pytest.approx(0.4, abs=0.01)  # those whose biases are -100


@pytest.mark.parametrize("function", [nn.GELU(), nn.LeakyReLU(), nn.SiLU(), nn.Hardtanh()])
def test_what_cannot_die_is_not_looked_at(function):
    assert looked_at(Functional(function), drawn(9, 20)).activations == ()


@pytest.mark.parametrize("threshold", [2.99, 3.01])
def test_saturated_is_where_the_slope_is_below_a_hundredth_of_the_steepest(threshold):
    """tanh' = 1 - tanh² is .01 at 2.993; the logistic function's, a quarter at most, at twice that."""
    x = torch.full((4, 20), threshold)
    for activation, scale in ((nn.Tanh(), 1.0), (nn.Sigmoid(), 2.0)):
        module = nn.Sequential(nn.Linear(20, 20, bias=False), activation, nn.Linear(20, 10))
        with torch.no_grad():
            module[0].weight.copy_(scale * torch.eye(20))
        assert looked_at(module, x).activations[0].saturated.value == (threshold > 3)


def tanhs(gain):
    module = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    with torch.no_grad():
        for i in (0, 2):
            module[i].weight.mul_(gain)
    return module


def test_saturated_units_are_found_in_their_layers():
    for seed in range(10):
        torch.manual_seed(seed)
        found = alarms(looked_at(tanhs(50.0), drawn(100, 20, seed=seed)))
        assert [(f.name, f.where) for f in found] == [("saturated units", "0"), ("saturated units", "2")]
        assert {f.severity for f in found} <= {"warning", "critical"}
        assert found[0].remedy == {"init": "glorot_normal"}


class Gated(nn.Module):
    """A cell with gates, written by hand, and a gated linear unit: their gates are wide open or shut."""

    def __init__(self):
        super().__init__()
        self.gates, self.value, self.last = nn.Linear(20, 40), nn.Linear(20, 40), nn.Linear(40, 10)

    def forward(self, x):
        opened = torch.sigmoid(100 * self.gates(x))
        candidate = torch.tanh(100 * self.value(x))
        return self.last(opened * candidate + F.glu(100 * torch.cat([x, x, x, x], 1)))


def test_gates_may_be_saturated():
    found = looked_at(Gated(), drawn(100, 20))
    assert [(a.kind, a.role) for a in found.activations] == [("sigmoid", "gate"), ("tanh", "gate")]
    assert found.activations[0].saturated.value > 0.9 and not findings(found)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.last = nn.LSTM(20, 16, batch_first=True), nn.Linear(16, 10)
        with torch.no_grad():
            self.recurrent.bias_ih_l0.fill_(50.0)

    def forward(self, x):
        return self.last(self.recurrent(x)[0][:, -1])


def test_the_gates_of_an_lstm_are_not_alarmed_at():
    assert not findings(looked_at(Recurrent(), drawn(40, 5, 20)))


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, lambda: nn.Softmax(1)])
def test_outputs_may_be_saturated(activation):
    module = nn.Sequential(*relus(), activation())
    with torch.no_grad():
        module[2].weight.mul_(1000)
    found = looked_at(module, drawn(100, 20))
    assert found.activations[-1].role == "output" and found.activations[-1].saturated.value > 0.9
    assert not findings(found)


def test_a_factor_that_is_a_number_is_no_signal():
    (found,) = looked_at(Functional(lambda x: 1.7159 * torch.tanh(x)), drawn(10, 20)).activations
    assert found.role == "hidden"


def test_units_are_channels_behind_a_convolution_and_the_last_dimension_elsewhere():
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10, 10))
    tokens = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12, 10))
    with torch.no_grad():
        convolution[0].bias[:3] = tokens[0].bias[:3] = -100.0
    for module, inputs in ((convolution, drawn(40, 3, 12)), (tokens, drawn(40, 12, 3))):
        (found,) = looked_at(module, inputs).activations
        assert (found.units, found.dead.value, found.dead.n) == (8, 3 / 8, 40)


def transformer():
    layer = nn.TransformerEncoderLayer(20, 2, 64, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 20)), layer, nn.Flatten(), nn.Linear(20, 10))


def convolutional():
    parts = [nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))


HEALTHY = {"relu": relus, "tanh": lambda: tanhs(1.0), "transformer": transformer, "convolutional": convolutional}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_model_is_alarmed_at_before_training_or_after(name):
    for seed in range(10):
        torch.manual_seed(seed)
        module, inputs = HEALTHY[name](), torch.randn(128, 20)
        targets = inputs[:, :10].argmax(1)
        assert not alarms(looked_at(module, inputs))
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for _ in range(25):
            optimizer.zero_grad()
            F.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
        assert not alarms(looked_at(module, inputs))


def test_looking_leaves_the_module_and_the_generators_as_they_were():
    module = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 10))
    before, random = {n: t.clone() for n, t in module.state_dict().items()}, torch.get_rng_state()
    assert looked_at(module, drawn(16, 20)) == looked_at(module, drawn(16, 20))
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(part._forward_hooks for part in module.modules())


def test_a_compiled_module_is_heard_too():
    assert looked_at(torch.compile(relus(7), backend="eager"), drawn(40, 20)).activations[0].dead.value == 7 / 50


def test_no_examples_are_refused():
    with pytest.raises(DiagnosisError, match="no examples were given"):
        looked_at(relus(), drawn(0, 20))
