import math

import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.challenges.symmetry import findings, symmetry
from thalweg.core.errors import DiagnosisError

F = nn.functional


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def looked_at(module, inputs=None, targets=None, loss=F.cross_entropy):
    inputs = drawn(64, 16) if inputs is None else inputs
    targets = torch.arange(len(inputs)) % 10 if targets is None else targets
    return symmetry(Network(module, loss, own=False), Batch(inputs, targets))


def mlp(activation=nn.ReLU):
    return nn.Sequential(nn.Linear(16, 32), activation(), nn.Linear(32, 24), activation(), nn.Linear(24, 10))


def constant(module, value=0.01):
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("value", [0.01, 0.0])
def test_constant_weights_make_every_unit_of_a_layer_the_same(activation, value):
    found = looked_at(constant(mlp(activation), value))
    assert [(layer.name, layer.units, layer.different) for layer in found.layers] == [("0", 32, 1), ("2", 24, 1)]
    for finding, where in zip(findings(found), ("0", "2"), strict=True):
        assert (finding.name, finding.severity, finding.where) == ("symmetric units", "critical", where)
        assert finding.remedy == {"init": "he_normal"} and finding.section == "8.4"


@pytest.mark.parametrize("copies", [1, 2, 4, 16])
def test_exactly_the_copies_are_twins(copies):
    """A unit and its copies: the same weights in, and the same out."""
    torch.manual_seed(0)
    module = mlp()
    with torch.no_grad():
        module[0].weight[:copies], module[0].bias[:copies] = module[0].weight[0], module[0].bias[0]
        module[2].weight[:, :copies] = module[2].weight[:, :1]
    first = looked_at(module).layers[0]
    assert first.different == 32 - copies + 1 and first.alike.value == (copies / 32 if copies > 1 else 0)
    severity = {1: [], 2: ["note"], 4: ["warning"], 16: ["warning"]}[copies]
    assert [finding.severity for finding in findings(looked_at(module))] == severity


def test_the_same_weights_in_and_others_out_are_no_twins():
    torch.manual_seed(0)
    module = mlp()
    with torch.no_grad():
        module[0].weight[:], module[0].bias[:] = module[0].weight[0], 0.0
    assert not findings(looked_at(module))


class Residual(nn.Module):
    """Blocks that begin as nothing: their last layers are zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 10)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3))
        for block in self.blocks:
            nn.init.zeros_(block[2].weight), nn.init.zeros_(block[2].bias)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Modulated(nn.Module):
    """A block whose scale, shift and gate are begun as zeros: behind a shut gate, scale and shift have no gradient."""

    def __init__(self):
        super().__init__()
        self.modulation, self.block, self.last = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 10)
        nn.init.zeros_(self.modulation.weight), nn.init.zeros_(self.modulation.bias)

    def forward(self, x):
        scale, shift, gate = self.modulation(F.silu(x)).chunk(3, 1)
        return self.last(x + gate * self.block(F.layer_norm(x, (16,)) * (1 + scale) + shift))


class Words(nn.Module):
    """An embedding that is the last layer's too, with rows that no example has."""

    def __init__(self):
        super().__init__()
        self.words, self.inside = nn.Embedding(40, 16), nn.Linear(16, 16)
        nn.init.zeros_(self.words.weight[20:])

    def forward(self, x):
        return F.linear(self.inside(self.words(x)), self.words.weight)


def zero_headed():
    module = mlp()
    nn.init.zeros_(module[4].weight), nn.init.zeros_(module[4].bias)
    return module


class LowRank(nn.Module):
    """A layer and a change to it of low rank, which begins as nothing."""

    def __init__(self):
        super().__init__()
        self.whole, self.last = nn.Linear(16, 32), nn.Linear(32, 10)
        self.down, self.up = nn.Linear(16, 4, bias=False), nn.Linear(4, 32, bias=False)
        self.whole.requires_grad_(False), nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.last(F.relu(self.whole(x) + self.up(self.down(x))))


def recurrent():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.last = nn.RNN(4, 12, batch_first=True, nonlinearity="relu"), nn.Linear(12, 10)
            nn.init.eye_(self.recurrent.weight_hh_l0), nn.init.zeros_(self.recurrent.bias_hh_l0)

        def forward(self, x):
            return self.last(self.recurrent(x.view(-1, 4, 4))[0][:, -1])

    return Last()


def convolutional():
    parts = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(), nn.Linear(128, 10))


def attentive():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 16)), layer, nn.Flatten(), nn.Linear(16, 10))


HEALTHY = [mlp, Residual, Modulated, Words, zero_headed, LowRank, recurrent, convolutional, attentive]


@pytest.mark.parametrize("make", HEALTHY)
def test_no_healthy_beginning_is_alarmed_at(make):
    for seed in range(10):
        torch.manual_seed(seed)
        inputs = torch.randint(20, (64,)) if make is Words else torch.randn(64, 16)
        assert not findings(looked_at(make(), inputs)), seed


def test_outputs_that_no_example_is_of_are_not_compared():
    module = zero_headed()
    assert [layer.name for layer in looked_at(module, targets=torch.zeros(64, dtype=torch.long)).layers] == ["0", "2"]
    assert not findings(looked_at(module, targets=torch.zeros(64, dtype=torch.long)))


def test_a_module_that_is_computed_anew_on_the_way_back_is_compared():
    class Anew(nn.Sequential):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    assert looked_at(constant(Anew(*mlp()))) == looked_at(constant(mlp()))


def test_dropout_tells_units_apart():
    module = constant(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)))
    torch.manual_seed(0)
    assert not findings(looked_at(module))
    assert findings(looked_at(module.eval()))


@pytest.mark.parametrize(
    ("part", "shape", "units"),
    [
        (lambda: nn.Conv2d(1, 6, 3), (1, 4, 4), 6),
        (lambda: nn.ConvTranspose2d(1, 6, 3), (1, 4, 4), 6),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 6)), (16,), 6),
    ],
)
def test_units_are_what_a_layer_answers_with(part, shape, units):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.last = part(), nn.Linear(1, 10)

        def forward(self, x):
            return self.last(self.part(x.view(-1, *shape)).flatten(1).sum(1, keepdim=True))

    torch.manual_seed(0)
    module = Summed()
    assert looked_at(module).layers[0].units == units and not findings(looked_at(module))
    constant(module.part, 0.1)
    assert looked_at(module).layers[0].different == 1


def test_a_module_that_is_one_layer_has_no_hidden_units():
    assert looked_at(constant(nn.Linear(16, 10))).layers == ()


def test_measuring_changes_nothing():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10))
    constant(module)
    before, random = {n: t.clone() for n, t in module.state_dict().items()}, torch.get_rng_state()
    assert looked_at(module) == looked_at(module)
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in module.parameters())


def test_a_compiled_module_is_compared_inside():
    assert looked_at(torch.compile(constant(mlp()), backend="eager")) == looked_at(constant(mlp()))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (drawn(0, 16), "a batch without examples"),
        (math.inf * drawn(3, 16), "the gradient is not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(inputs, said):
    with pytest.raises(DiagnosisError, match=said):
        looked_at(mlp(), inputs)
