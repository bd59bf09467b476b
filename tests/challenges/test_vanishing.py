import math

import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.challenges.propagation import radius, signal
from thalweg.challenges.vanishing import chain, findings, mean_field
from thalweg.core.errors import DiagnosisError, NetworkError

F = nn.functional


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes(n, count=10, seed=1):
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))


def looked_at(module, inputs, targets=None, loss=F.cross_entropy):
    targets = classes(len(inputs)) if targets is None else targets
    return signal(Network(module, loss, own=False), Batch(inputs, targets))


def of_chain(gain, depth=20, width=64, activation=nn.Identity):
    return looked_at(
        chain(depth, width, gain, activation), drawn(64, width), drawn(64, width, seed=2), lambda z, y: (z * y).mean()
    )


def alarms(found):
    return [f for f in found if f.severity in ("warning", "critical", "unclear")]


@pytest.mark.parametrize(("gain", "expected"), [(0.5, 9.54e-7), (1.5, 3325.26), (1.0, 1.0)])
def test_a_linear_chain_multiplies_the_gradient_by_its_gain_at_each_layer(gain, expected):
    found = of_chain(gain)
    through = found.layers[0].ratio
    assert found.layers[0].name == "input"
    assert through.value == pytest.approx(expected, rel=1e-3) == gain**20
    assert through.high / through.low == pytest.approx(1, abs=1e-4)
    assert found.growth.value == pytest.approx(math.log(gain), abs=1e-5)
    for position, layer in enumerate(found.layers):
        assert layer.ratio.value == pytest.approx(gain ** (20 - position), rel=1e-4)
        assert layer.moment.value == pytest.approx(gain ** (2 * position) * found.layers[0].moment.value, rel=1e-4)


@pytest.mark.parametrize(
    ("gain", "name", "severity"),
    [
        (0.4, "vanishing gradients", "critical"),
        (0.55, "vanishing gradients", "warning"),
        (1.5, "exploding gradients", "warning"),
        (2.0, "exploding gradients", "critical"),
    ],
)
def test_what_vanishes_and_what_explodes_is_named_with_its_layer(gain, name, severity):
    finding = findings(of_chain(gain))[0]
    assert (finding.name, finding.severity, finding.where) == (name, severity, "0")
    assert finding.remedy == {"init": "he_normal"}
    assert f"by {max(gain, 1 / gain):.2g} a layer" in finding.what


def test_a_chain_of_gain_one_gets_a_note():
    (finding,) = findings(of_chain(1.0))
    assert (finding.name, finding.severity) == ("signal propagation", "note")


@pytest.mark.parametrize(("sigma", "q", "chi"), [(0.8, 0.0, 0.64), (1.5, 0.792, 1.140)])
def test_tanh_has_the_published_mean_field(sigma, q, chi):
    found = mean_field(torch.tanh, sigma)
    assert found.q == pytest.approx(q, abs=2e-3) and found.chi == pytest.approx(chi, abs=1e-3)


def test_relu_is_critical_at_a_variance_of_two():
    assert mean_field(torch.relu, math.sqrt(2)).chi == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_a_wide_tanh_chain_does_what_mean_field_theory_says(sigma):
    depth, width = 16, 512
    inputs = math.sqrt(max(mean_field(torch.tanh, sigma).q, 1e-4)) / sigma * drawn(16, width)
    found = looked_at(
        chain(depth, width, sigma, nn.Tanh), inputs, drawn(16, width, seed=2), lambda z, y: (z * y).mean()
    )
    measured = found.layers[1].ratio.value ** (2 / (depth - 1))
    assert measured == pytest.approx(mean_field(torch.tanh, sigma).chi, rel=0.02)


def test_gradients_by_activations_shrink_downward_where_gradients_by_weights_do_not():
    """Glorot and Bengio 2010, section 4.2: the standard initialisation, five hidden layers of tanh."""
    torch.manual_seed(0)
    width, layers = 400, []
    for _ in range(5):
        layer = nn.Linear(width, width)
        nn.init.uniform_(layer.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    found = looked_at(nn.Sequential(*layers, nn.Linear(width, 10)), drawn(256, width)).weighted[:5]
    by_activations = [layer.gradient.value for layer in found]
    by_weights = [layer.weight_gradient.value for layer in found]
    assert by_activations == sorted(by_activations)
    assert by_activations[-1] / by_activations[0] > 5
    assert max(by_weights) / min(by_weights) < 1.7


def test_thirty_relu_layers_keep_their_signal_with_he_and_lose_it_with_glorot():
    """He et al. 2015, figure 3; the second moment falls as 2^-30."""

    def moments(init):
        torch.manual_seed(0)
        layers = [part for _ in range(30) for part in (nn.Linear(256, 256, bias=False), nn.ReLU())]
        for part in layers[::2]:
            init(part.weight)
        return [layer.moment.value for layer in looked_at(nn.Sequential(*layers), drawn(64, 256)).weighted]

    he = moments(lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))
    glorot = moments(nn.init.xavier_normal_)
    assert 0.1 < he[-1] / he[0] < 10
    assert 0.1 < glorot[-1] / glorot[0] / 2.0**-29 < 10


class Repeated(nn.Module):
    """h_T of h_0 by a linear map that is repeated."""

    def __init__(self, rho, steps):
        super().__init__()
        self.cell, self.steps = chain(1, 16, rho)[0], steps

    def forward(self, h):
        for _ in range(self.steps):
            h = self.cell(h)
        return h


@pytest.mark.parametrize("rho", [0.7, 1.0, 1.2])
def test_a_linear_recurrence_takes_the_gradient_to_the_power_of_its_steps(rho):
    found = looked_at(Repeated(rho, 30), drawn(8, 16), drawn(8, 16, seed=2), lambda z, y: (z * y).mean())
    assert found.layers[0].ratio.value == pytest.approx(rho**30, rel=1e-4)
    assert [layer.name for layer in found.layers[:3]] == ["input", "cell", "cell (2)"]


class Sequences(nn.Module):
    """A recurrent layer and a linear one on its last answer, or on all of them."""

    def __init__(self, kind=nn.RNN, whole=False, rho=None):
        super().__init__()
        torch.manual_seed(0)
        self.recurrent, self.last = kind(4, 32, batch_first=True), nn.Linear(32, 10)
        self.whole = whole
        if rho is not None:
            nn.init.orthogonal_(self.recurrent.weight_hh_l0, rho)

    def forward(self, x):
        h, _ = self.recurrent(x)
        return self.last(h.mean(1) if self.whole else h[:, -1])


def test_a_recurrent_layer_of_small_radius_forgets_its_first_steps():
    module = Sequences(rho=0.7)
    found = looked_at(module, drawn(32, 60, 4))
    (recurrent,) = found.recurrent
    assert recurrent.radius == pytest.approx(0.7, abs=1e-5) and recurrent.steps == 60
    assert 0 < recurrent.first.value < 0.7**59
    (finding,) = alarms(findings(found))
    assert (finding.name, finding.severity, finding.where) == ("vanishing gradients", "critical", "recurrent")
    assert finding.section == "10.7" and "spectral radius 0.7" in finding.what


@pytest.mark.parametrize(
    ("module", "steps", "scale"),
    [
        (Sequences(rho=0.7, whole=True), 60, 1.0),  # the loss feels every step at once
        (Sequences(rho=0.7), 8, 1.0),
        (Sequences(rho=1.0), 60, 0.01),
        (Sequences(nn.GRU), 8, 1.0),
        (Sequences(nn.LSTM), 8, 1.0),
    ],
)
def test_a_recurrent_layer_that_remembers_as_long_as_it_must_is_not_alarmed_at(module, steps, scale):
    assert not alarms(findings(looked_at(module, scale * drawn(32, steps, 4))))


def test_the_radius_is_of_the_candidate_where_there_are_gates():
    for kind, gates in ((nn.GRU, 3), (nn.LSTM, 4)):
        part = kind(3, 5)
        with torch.no_grad():
            part.weight_hh_l0.view(gates, 5, 5)[:] = torch.arange(gates)[:, None, None] * torch.eye(5)
        assert radius(part) == pytest.approx(2.0)


class Residual(nn.Module):
    def __init__(self, first=64):
        super().__init__()
        self.first = nn.Linear(first, 64)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(4))
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Transformer(nn.Module):
    """Embeddings of a small scale, LayerNorm first."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Parameter(0.02 * torch.randn(16, 32))
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True) for _ in range(4)
        )
        self.norm, self.last = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        x = self.tokens(x) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.last(self.norm(x).mean(1))


def convolutional():
    parts = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    for _ in range(3):
        parts += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(256, 10))


def plain(activation, hidden):
    parts = [part for _ in range(hidden) for part in (nn.Linear(64, 64), activation())]
    return nn.Sequential(*parts, nn.Linear(64, 10))


HEALTHY = {
    "residual": Residual,
    "transformer": Transformer,
    "convolutional": convolutional,
    **{f"{hidden} {kind.__name__}": (kind, hidden) for kind in (nn.ReLU, nn.Tanh, nn.GELU) for hidden in (1, 3, 5)},
    "2 Sigmoid": (nn.Sigmoid, 2),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_model_is_alarmed_at(name):
    make = HEALTHY[name]
    for seed in range(10):
        torch.manual_seed(seed)
        module = plain(*make) if isinstance(make, tuple) else make()
        inputs = torch.randint(50, (64, 16)) if name == "transformer" else torch.randn(64, 64)
        assert not alarms(findings(looked_at(module, inputs))), seed


def test_a_last_layer_of_zeros_is_healthy():
    module = Residual()
    nn.init.zeros_(module.last.weight)
    assert not alarms(findings(looked_at(module, drawn(64, 64))))


def test_inputs_on_a_scale_of_their_own_are_not_the_nets_fault():
    module = nn.Sequential(nn.LayerNorm(64), *plain(nn.ReLU, 2))
    assert not alarms(findings(looked_at(module, 1e7 * drawn(64, 64))))


@pytest.mark.parametrize("kind", ["sigmoid", "relu"])
def test_deep_layers_of_a_bad_gain_are_found(kind):
    for seed in range(10):
        torch.manual_seed(seed)
        module = plain(nn.Sigmoid if kind == "sigmoid" else nn.ReLU, 10)
        for part in module[:-1]:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.05 if kind == "sigmoid" else 3 * math.sqrt(2 / 64))
        first = findings(looked_at(module, drawn(64, 64)))[0]
        assert first.severity in ("warning", "critical")
        assert first.name == ("vanishing gradients" if kind == "sigmoid" else "exploding gradients")


def test_one_example_is_not_enough_to_tell():
    (finding,) = findings(looked_at(chain(20, 8, 0.4), drawn(1, 8), drawn(1, 8), F.mse_loss))
    assert (finding.name, finding.severity) == ("vanishing gradients", "unclear")
    assert "more than 1 examples" in finding.advice


def test_the_interval_covers_the_ratio_of_many_examples():
    torch.manual_seed(0)
    module = plain(nn.Tanh, 3)
    inputs, targets = drawn(8000, 64), classes(8000)
    truth = looked_at(module, inputs, targets).weighted[0].ratio.value
    found = [
        looked_at(module, x, y).weighted[0].ratio for x, y in zip(inputs.split(80), targets.split(80), strict=True)
    ]
    assert 90 <= sum(r.low <= truth <= r.high for r in found) <= 100
    assert max(r.high / r.low for r in found) < 1.2


def test_batches_are_put_together_whatever_their_length():
    module, inputs, targets = plain(nn.Tanh, 2), drawn(48, 64), classes(48)
    network = Network(module, F.cross_entropy, own=False)
    whole = signal(network, Batch(inputs, targets))
    parts = signal(network, *(Batch(inputs[a:b], targets[a:b]) for a, b in ((0, 30), (30, 48))))
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert one.gradient == pytest.approx(other.gradient, rel=1e-4)
        assert one.ratio == pytest.approx(other.ratio, rel=1e-4)
        assert one.moment == pytest.approx(other.moment, rel=1e-4)


def test_sequences_whose_batch_comes_second_are_read_example_by_example():
    recurrent = nn.RNN(4, 8)
    module = nn.Sequential(recurrent)
    found = looked_at(module, drawn(12, 6, 4), drawn(6, 8), lambda z, y: (z[0][-1] * y).mean())
    assert found.layers[-1].moment.n == 12  # as many as the batch says that it has


def test_a_module_that_is_a_layer_itself_is_named_after_its_class():
    found = looked_at(nn.Linear(4, 10), drawn(8, 4))
    assert [layer.name for layer in found.layers] == ["input", "Linear"]
    assert found.layers[1].weight_gradient is not None
    assert found.growth == (0.0, 0.0, 0.0, 1)  # there is no way to grow on


def test_a_frozen_layer_is_left_out():
    module = plain(nn.ReLU, 2)
    module[0].requires_grad_(False)
    found = looked_at(module, torch.arange(64.0).expand(8, 64))
    assert [layer.name for layer in found.weighted] == ["0", "2", "4"]  # the signal still goes through it
    assert found.weighted[0].weight_gradient is None


def test_measuring_leaves_the_module_and_the_generators_as_they_were():
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(8, 10))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    first = looked_at(module, drawn(16, 8))
    assert first == looked_at(module, drawn(16, 8))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_compiled_module_is_measured_inside():
    module = plain(nn.Tanh, 2)
    assert looked_at(torch.compile(module, backend="eager"), drawn(16, 64)) == looked_at(module, drawn(16, 64))


class Reentrant(nn.Sequential):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=True)


@pytest.mark.parametrize(
    ("measure", "error", "said"),
    [
        (lambda: signal(Network(nn.Linear(2, 2), F.mse_loss)), DiagnosisError, "no batch was given"),
        (lambda: looked_at(nn.Linear(2, 2), drawn(0, 2)), DiagnosisError, "a batch without examples"),
        (lambda: looked_at(nn.Linear(2, 10), drawn(3, 2) * math.inf), DiagnosisError, "the loss is nan"),
        (lambda: looked_at(nn.Linear(2, 2), drawn(3, 2), drawn(3, 2), lambda z, y: z), NetworkError, "one number"),
        (
            lambda: looked_at(Reentrant(nn.Linear(2, 10)), drawn(3, 2)),
            DiagnosisError,
            "use torch.utils.checkpoint with use_reentrant=False",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(measure, error, said):
    with pytest.raises(error, match=said):
        measure()
