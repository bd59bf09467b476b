import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.challenges.passes import layers, there_and_back, watched
from thalweg.challenges.propagation import signal
from thalweg.challenges.symmetry import symmetry
from thalweg.challenges.units import units
from thalweg.core.errors import DiagnosisError

F = nn.functional
P = nn.utils.parametrizations


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Calls(nn.Module):
    """Calls a part by a function, and a linear layer on what it answers."""

    def __init__(self, part, call, width):
        super().__init__()
        self.part, self.call, self.last = part, call, nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.call(self.part, x).flatten(1))


def plain(part, x):
    return part(x)


def first(part, x):
    return part(x)[0]


def packed(part, x):
    lengths = torch.tensor([4, 3, 2] * 4)[: len(x)]
    found, _ = part(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=4)[0]


def attending(part, x):
    return part(x, x, x)[0]


def anew(part, x):
    return torch.utils.checkpoint.checkpoint(part, x, use_reentrant=False)


class Own(nn.Module):
    """Counts in a buffer that it writes to, and in one that it replaces."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("total", torch.zeros(6))

    def forward(self, x):
        self.calls += 1
        self.total = self.total + x.detach().mean(0)
        x *= 2  # its input too
        return self.inside(x)


TOKENS, IMAGES, WORDS = drawn(12, 4, 6), drawn(12, 2, 6, 6), torch.arange(48).reshape(12, 4) % 7
KINDS = {
    "Linear": (nn.Linear(6, 6), plain, drawn(12, 6), 6),
    "Bilinear": (nn.Bilinear(6, 6, 6), lambda part, x: part(x, x), drawn(12, 6), 6),
    "Conv1d": (nn.Conv1d(4, 3, 3), plain, TOKENS, 12),
    "Conv2d": (nn.Conv2d(2, 3, 3), plain, IMAGES, 48),
    "Conv2d groups": (nn.Conv2d(2, 4, 3, groups=2), plain, IMAGES, 64),
    "ConvTranspose2d": (nn.ConvTranspose2d(2, 3, 3), plain, IMAGES, 192),
    "ConvTranspose2d groups": (nn.ConvTranspose2d(2, 4, 3, groups=2), plain, IMAGES, 256),
    "BatchNorm2d": (nn.BatchNorm2d(2), plain, IMAGES, 72),
    "GroupNorm": (nn.GroupNorm(1, 2), plain, IMAGES, 72),
    "Embedding": (nn.Embedding(7, 5), plain, WORDS, 20),
    "sparse Embedding": (nn.Embedding(7, 5, sparse=True), plain, WORDS, 20),
    "EmbeddingBag": (nn.EmbeddingBag(7, 5), plain, WORDS, 5),
    "RNN": (nn.RNN(6, 5, batch_first=True), first, TOKENS, 20),
    "GRU": (nn.GRU(6, 5, 2, batch_first=True, bidirectional=True), first, TOKENS, 40),
    "LSTM": (nn.LSTM(6, 5, batch_first=True), first, TOKENS, 20),
    "LSTM packed": (nn.LSTM(6, 5, batch_first=True), packed, TOKENS, 20),
    "GRUCell": (nn.GRUCell(6, 5), lambda part, x: part(x[:, 1], part(x[:, 0])), TOKENS, 5),
    "LSTMCell": (nn.LSTMCell(6, 5), lambda part, x: part(x[:, 1], part(x[:, 0]))[0], TOKENS, 5),
    "MultiheadAttention": (nn.MultiheadAttention(6, 2, batch_first=True), attending, TOKENS, 24),
    "encoder layer": (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), plain, TOKENS, 24),
    "weight_norm": (P.weight_norm(nn.Linear(6, 6)), plain, drawn(12, 6), 6),
    "spectral_norm": (P.spectral_norm(nn.Linear(6, 6)), plain, drawn(12, 6), 6),
    "orthogonal": (P.orthogonal(nn.Linear(6, 6)), plain, drawn(12, 6), 6),
    "Dropout": (nn.Sequential(nn.Linear(6, 6), nn.Dropout()), plain, drawn(12, 6), 6),
    "in place": (nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)), plain, drawn(12, 6), 6),
    "buffers": (Own(), plain, drawn(12, 6), 6),
    "computed anew": (nn.Sequential(nn.Linear(6, 6), nn.Tanh()), anew, drawn(12, 6), 6),
    "functions": (nn.Linear(6, 6), lambda part, x: F.relu(part(x), inplace=True) * torch.sigmoid(x), drawn(12, 6), 6),
}


def bits(module):
    found = {name: (id(t), t.data_ptr(), t.detach().numpy().tobytes()) for name, t in module.named_parameters()}
    found |= {name: (id(t), t.numpy().tobytes()) for name, t in module.named_buffers()}
    found["grad"] = [p.grad for p in module.parameters()]
    found["flags"] = [part.training for part in module.modules()]
    found["hooks"] = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    found["random"] = torch.get_rng_state().numpy().tobytes()
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_any_module_is_measured_and_left_as_it_was(kind, training):
    part, call, inputs, width = KINDS[kind]
    torch.manual_seed(0)
    module = Calls(part, call, width).train(training)
    network, batch = Network(module, F.cross_entropy, own=False), Batch(inputs, torch.arange(12) % 3)
    before, given = bits(module), inputs.clone()
    through, heard, compared = signal(network, batch), units(network, batch), symmetry(network, batch)
    assert bits(module) == before and torch.equal(inputs, given)
    assert through.layers[-1].name == "last" and 0 < through.layers[0].ratio.value < 1e3
    assert all(0 <= a.dead.value <= 1 for a in heard.activations)
    assert all(layer.alike.value == 0 for layer in compared.layers)


@pytest.mark.parametrize("kind", ["Conv2d", "RNN", "encoder layer", "weight_norm", "buffers", "computed anew"])
def test_the_gradients_are_those_of_plain_backpropagation(kind):
    part, call, inputs, width = KINDS[kind]
    torch.manual_seed(0)
    module = Calls(part, call, width).eval()
    network, batch = Network(module, F.cross_entropy, own=False), Batch(inputs, torch.arange(12) % 3)
    passed = there_and_back(network, batch, lambda *_: None)
    loss = F.cross_entropy(module(inputs.clone()), batch.targets)
    loss.backward()
    assert passed.loss == pytest.approx(float(loss.detach()))
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(passed.gradients[name], parameter.grad)
        parameter.grad = None


def test_layers_are_the_parts_with_weights_and_not_what_holds_them():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.zeros(4, 6))
            self.attention, self.norm = nn.MultiheadAttention(6, 2), nn.LayerNorm(6)
            self.normed = P.weight_norm(nn.Linear(6, 6))

    assert list(layers(Holder())) == ["attention", "attention.out_proj", "normed"]


def test_what_is_watched_is_told_of_as_it_is_called():
    module, told = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 3)), []
    with watched(module, layers(module), lambda name, part, z: told.append((name, tuple(z.shape)))):
        module(torch.ones(5, 1, 2))
    assert told == [("0", (5, 1, 2)), ("1:in", (5, 1, 2)), ("1", (5, 1, 3))]
    module(torch.ones(5, 1, 2))
    assert len(told) == 3


def test_a_loss_that_depends_on_no_parameter_is_refused():
    with pytest.raises(DiagnosisError, match="is its output detached"):
        there_and_back(Network(nn.Linear(2, 2), lambda z, y: z.detach().sum()), Batch(drawn(3, 2), drawn(3, 2)), print)
