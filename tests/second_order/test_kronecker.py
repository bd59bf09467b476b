import math

import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.core.derivatives import gauss_newton_at
from thalweg.core.errors import CurvatureError
from thalweg.execution.closure import Objective
from thalweg.second_order.blocks import DIAGONAL, FULL, dense
from thalweg.second_order.kronecker import evaluated, expand, factors, reduce
from thalweg.second_order.treatment import diagonal, refuse, scalar, treatment

F = nn.functional
DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def tokens(*shape, count=6, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def made(make, *args, seed=0, **kwargs):
    """A module with parameters of its own for each seed, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make(*args, **kwargs).double()
        for p in module.parameters():
            nn.init.normal_(p, std=0.7)
    return module


def objective(module, x, loss=F.mse_loss, y=None):
    network = Network(module, loss)
    z = network.on(Batch(x, x)).outputs(network.theta)
    return network.on(Batch(x, drawn(*z.shape, seed=9) if y is None else y))


def known(f, samples=0, sharing=expand, others=refuse, max_dim=2048, t=0):
    """The blocks and their factors, by the name of the parameter."""
    theta = f.network.theta
    found = evaluated(f, theta, others, max_dim, samples, t, 0)
    names = {}
    for layer, pair in zip(found.layers, factors(found, sharing), strict=True):
        starts = [p.at for p in found.seen.parameters if p.at <= layer.block.at]
        names.setdefault(found.seen.parameters[len(starts) - 1].name, []).append((layer.block, pair))
    return {name: of_one[0] if len(of_one) == 1 else of_one for name, of_one in names.items()}


def matrix(f, **settings):
    """The whole matrix that the blocks are: (n, n)."""
    n = len(f.network.theta)
    whole, place = torch.zeros(n, n, dtype=DOUBLE), torch.arange(n, dtype=DOUBLE)
    for of_one in known(f, **settings).values():
        for block, pair in of_one if isinstance(of_one, list) else [of_one]:
            for at, part in zip(block.matrix(place).long().flatten(1), dense(block, *pair), strict=True):
                whole[at[:, None], at] = part
    return whole


def exact(f):
    """The Gauss-Newton matrix, (n, n)."""
    product = gauss_newton_at(f, f.network.theta)
    return torch.stack([product(e) for e in torch.eye(len(f.network.theta), dtype=DOUBLE)])


def blocks_of(whole, f, *together):
    """Of a matrix (n, n) only what is between parameters of one name, or of one set of them."""
    places = f.network.views(torch.arange(len(whole), dtype=DOUBLE))
    kept = torch.zeros_like(whole)
    for names in [set(t) for t in together] + [{n} for n in places if not any(n in t for t in together)]:
        at = torch.cat([places[n].reshape(-1) for n in names]).long()
        kept[at[:, None], at] = whole[at[:, None], at]
    return kept


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# Against another's


class Pooled(nn.Module):
    """A convolution or a linear layer over positions, then a linear one over positions, then their mean."""

    def __init__(self, first, width):
        super().__init__()
        self.first, self.last = first, nn.Linear(width, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = h.flatten(2).transpose(1, 2) if isinstance(self.first, nn.Conv2d) else h
        return self.last(h).mean(1)


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3)), (7, 4)),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Sigmoid(), nn.Linear(5, 3)), (7, 4)),
    "shared": (lambda: Pooled(nn.Linear(4, 5), 5), (7, 6, 4)),
    "convolution": (lambda: Pooled(nn.Conv2d(2, 5, 3, padding=1), 5), (7, 2, 4, 5)),
    "strides": (lambda: Pooled(nn.Conv2d(2, 5, (2, 3), stride=(2, 1), padding=(1, 0)), 5), (7, 2, 4, 5)),
    "dilation": (lambda: Pooled(nn.Conv2d(2, 5, 2, dilation=2, padding="same"), 5), (7, 2, 4, 5)),
}
TARGETS = {
    nn.CrossEntropyLoss: lambda: tokens(7, count=3),
    nn.MSELoss: lambda: drawn(7, 3, seed=5),
    nn.BCEWithLogitsLoss: lambda: tokens(7, 3, count=2).double(),
}


@pytest.mark.parametrize("loss", TARGETS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sharing", [expand, reduce])
def test_the_factors_are_those_of_curvlinops(curvlinops, name, loss, sharing):
    make, shape = MODELS[name]
    module, x, y = made(make), drawn(*shape), TARGETS[loss]()
    theirs = curvlinops.KFACLinearOperator(
        module, loss(), list(module.parameters()), [(x, y)], fisher_type="type-2", kfac_approx=sharing.__name__,
        separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    f = objective(module, x, loss(), y)
    close(matrix(f, sharing=sharing), theirs @ torch.eye(len(f.network.theta), dtype=DOUBLE))


# Where it is exact


@pytest.mark.parametrize("loss", [F.mse_loss, F.cross_entropy, F.binary_cross_entropy_with_logits])
def test_for_one_example_it_is_exact_within_each_layer(loss):
    module = made(nn.Sequential, nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    f = objective(module, drawn(1, 4), loss, drawn(1, 3).softmax(1))
    pairs = [(f"{i}.weight", f"{i}.bias") for i in (0, 2, 4)]
    close(matrix(f), blocks_of(exact(f), f, *pairs))


def test_for_a_deep_linear_network_and_squares_it_is_exact_within_each_layer():
    f = objective(made(nn.Sequential, nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)), drawn(8, 4))
    close(matrix(f), blocks_of(exact(f), f, *[(f"{i}.weight", f"{i}.bias") for i in range(3)]))


def test_where_all_positions_are_alike_reduce_is_exact():
    f = objective(made(Pooled, nn.Linear(4, 5), 5), drawn(1, 4).expand(1, 6, 4))
    close(
        matrix(f, sharing=reduce), blocks_of(exact(f), f, ("first.weight", "first.bias"), ("last.weight", "last.bias"))
    )


def test_samples_come_to_the_exact_factors():
    f = objective(made(nn.Sequential, nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), drawn(7, 4), F.cross_entropy,
                  tokens(7, count=3))  # fmt: skip
    few, many, whole = matrix(f, samples=10), matrix(f, samples=2000), matrix(f)
    assert (many - whole).norm() < 0.05 * whole.norm() < (few - whole).norm()


def test_the_labels_of_the_data_play_no_part():
    module, x = made(nn.Sequential, nn.Linear(4, 3)), drawn(7, 4)
    one, other = (matrix(objective(module, x, F.cross_entropy, tokens(7, count=3, seed=s)), samples=3) for s in (1, 2))
    assert torch.equal(one, other)


# Every kind of layer


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 7)),
    "2d": (nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), padding=(2, 0)), (5, 4, 4, 5)),
    "3d": (nn.Conv3d(2, 4, 2, padding=(0, 1, 0), stride=(1, 2, 1)), (3, 2, 3, 4, 3)),
    "same": (nn.Conv2d(2, 3, (2, 4), padding="same", padding_mode="zeros"), (5, 2, 4, 5)),
    "circular": (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (5, 2, 6)),
    "no bias": (nn.Conv1d(2, 3, 3, bias=False), (5, 2, 6)),
    "groups": (nn.Conv2d(4, 6, 2, groups=2), (5, 4, 3, 3)),
    "depthwise": (nn.Conv1d(3, 6, 2, groups=3, stride=2), (5, 3, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_a_linear_layer_on_patches(name):
    """Patches by a convolution with unit kernels, the gradients by a Jacobian: A and G of each group."""
    conv, shape = CONVOLUTIONS[name]
    conv, x = made(lambda: conv), drawn(*shape)
    f = objective(conv, x)
    block, (left, right) = known(f)["weight"]
    kernel = conv.weight[0].numel()
    unit = type(conv)(conv.in_channels, conv.groups * kernel, conv.kernel_size, conv.stride, conv.padding,
                      conv.dilation, conv.groups, False, conv.padding_mode).double()  # fmt: skip
    unit.weight.data = torch.eye(kernel, dtype=DOUBLE).repeat(conv.groups, 1).view(unit.weight.shape)
    patches = unit(x).detach().flatten(2).view(len(x), conv.groups, kernel, -1).permute(0, 3, 1, 2).flatten(0, 1)
    if conv.bias is not None:
        patches = torch.cat([patches, torch.ones_like(patches[..., :1])], dim=2)
    assert (block.groups, block.rows) == (conv.groups, conv.out_channels // conv.groups)
    close(right, torch.einsum("ngi,ngj->gij", patches, patches) / len(patches))
    # outputs are the layer's own: G sums e e' over them, 2 / numel each
    positions = conv(x)[0, 0].numel()
    size = len(x) * positions * 2 / conv(x).numel()
    close(left, size * torch.eye(block.rows, dtype=DOUBLE).expand_as(left))


def test_a_convolution_with_groups_is_so_many_convolutions():
    class Apart(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.parts = nn.ModuleList(nn.Conv2d(2, 3, 2, stride=2).double() for _ in range(2))
            for part, weight, bias in zip(self.parts, conv.weight.chunk(2), conv.bias.chunk(2), strict=True):
                part.weight.data, part.bias.data = weight.detach().clone(), bias.detach().clone()

        def forward(self, x):
            return torch.cat([part(half) for part, half in zip(self.parts, x.chunk(2, 1), strict=True)], 1)

    conv = made(nn.Conv2d, 4, 6, 2, stride=2, groups=2)
    rest = made(nn.Sequential, nn.Tanh(), nn.Conv2d(6, 2, 2), nn.Flatten())
    x = drawn(5, 4, 5, 5)
    whole = known(objective(nn.Sequential(conv, rest), x))["0.weight"]
    apart = known(objective(nn.Sequential(Apart(conv), rest), x))
    for group in range(2):
        for k in range(2):
            close(whole[1][k][group], apart[f"0.parts.{group}.weight"][1][k][0])


class Decomposed(nn.Module):
    """Attention by hand, of linear layers, with examples first."""

    def __init__(self, torchs):
        super().__init__()
        e, self.heads = torchs.embed_dim, torchs.num_heads
        bias = torchs.in_proj_bias
        same = torchs._qkv_same_embed_dim
        own = (torchs.q_proj_weight, torchs.k_proj_weight, torchs.v_proj_weight)
        for i, (name, w) in enumerate(zip("qkv", torchs.in_proj_weight.chunk(3) if same else own, strict=True)):
            layer = nn.Linear(w.shape[1], e).double()
            layer.weight.data, layer.bias.data = w.detach().clone(), bias[i * e : (i + 1) * e].detach().clone()
            setattr(self, name, layer)
        self.out = nn.Linear(e, e).double()
        self.out.load_state_dict(torchs.out_proj.state_dict())

    def forward(self, q, k, v):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, q), (self.k, k), (self.v, v))
        )
        return self.out((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class Around(nn.Module):
    """Attention of x to itself or to something made of x, then the mean over positions."""

    def __init__(self, attention, cross, first):
        super().__init__()
        self.attention, self.cross, self.first = attention, cross, first

    def forward(self, x):
        other = x[:, :4].square() if self.cross else x
        values = other[..., :3] if getattr(self.attention, "vdim", None) == 3 or self.cross == "narrow" else other
        if not isinstance(self.attention, nn.MultiheadAttention):
            return self.attention(x, other, values).mean(1)
        if not self.first:
            x, other, values = (a.transpose(0, 1) for a in (x, other, values))
            if not self.cross:
                other = values = x
        found = self.attention(x, other, values, need_weights=self.first)[0]
        return found.mean(1 if self.first else 0)


@pytest.mark.parametrize("sharing", [expand, reduce])
@pytest.mark.parametrize("first", [True, False], ids=["batch first", "batch second"])
@pytest.mark.parametrize("cross", ["", "cross", "narrow"])
def test_torchs_attention_is_four_linear_layers(cross, first, sharing):
    vdim = 3 if cross == "narrow" else None
    torchs = made(nn.MultiheadAttention, 6, 2, batch_first=first, vdim=vdim)
    x = drawn(4, 5, 6)
    mine = known(objective(Around(torchs, cross, first), x), sharing=sharing)
    theirs = known(objective(Around(Decomposed(torchs), cross, True), x), sharing=sharing)
    weights = mine["attention.in_proj_weight"] if not vdim else [mine[f"attention.{n}_proj_weight"] for n in "qkv"]
    for name, (block, pair) in zip("qkv", weights, strict=True):
        assert block.bias >= 0
        close(pair, theirs[f"attention.{name}.weight"][1])
    close(mine["attention.out_proj.weight"][1], theirs["attention.out.weight"][1])
    assert len(mine) == 2 + 2 * bool(vdim)


def test_a_transformers_layer_has_factors_for_everything():
    layer = made(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True, dropout=0.0)
    f = objective(nn.Sequential(layer, nn.Flatten(), made(nn.Linear, 24, 3)), drawn(4, 3, 8))
    words = treatment(f, f.network.theta, others=refuse)
    assert words["0.self_attn.in_proj_weight"] == "; ".join(["linear: 8 x 8 ⊗ 9 x 9"] * 3)
    assert words["0.norm1.weight"] == "scale: 8 x 8" and words["0.norm2.bias"] == "shift: 8 x 8"
    assert all(told.startswith(("linear", "scale", "shift")) for told in words.values())


class Embedded(nn.Module):
    """Tokens to vectors, and to outputs; the last layer's weight may be the embedding's."""

    def __init__(self, tied=False, **settings):
        super().__init__()
        self.table = nn.Embedding(6, 3, **settings)
        self.last = nn.Linear(3, 6, bias=tied == "bias")
        if tied:
            self.last.weight = self.table.weight

    def forward(self, x):
        return self.last(torch.tanh(self.table(x))).mean(1)


@pytest.mark.parametrize("padding", [None, 2, -1])
def test_an_embedding_is_a_linear_layer_on_one_hot_vectors_whose_covariance_is_diagonal(padding):
    class OneHot(nn.Module):
        def __init__(self, table, last):
            super().__init__()
            self.table, self.last = nn.Linear(6, 3, bias=False).double(), last
            self.table.weight.data = table.weight.detach().T.clone()

        def forward(self, x):
            return self.last(torch.tanh(self.table(x))).mean(1)

    module, x = made(Embedded, padding_idx=padding), tokens(5, 4)
    one_hot = F.one_hot(x, 6).double()
    there = torch.ones_like(x) if padding is None else (x != padding % 6).long()
    block, (left, right) = known(objective(module, x))["table.weight"]
    _, (outgoing, incoming) = known(objective(OneHot(module.table, module.last), one_hot))["table.weight"]
    assert (block.left, block.right, block.rows, block.columns) == (DIAGONAL, FULL, 6, 3)
    counted = one_hot * there[..., None]
    close(left[0], counted.sum((0, 1)) / counted.sum())
    if padding is None:
        close(left[0], incoming[0].diagonal())
        close(right, outgoing)
    else:
        assert left[0, padding] == 0 and not torch.allclose(right, outgoing)


def test_of_one_token_an_embedding_is_exact():
    f = objective(made(Embedded), torch.tensor([[3]]))
    close(matrix(f), blocks_of(exact(f), f))


@pytest.mark.parametrize("bias", [True, "bias"])
def test_a_weight_that_is_embedding_and_output_layer_has_one_block_with_the_trace_of_both(bias):
    f = objective(made(Embedded, tied=bias), tokens(1, 1))
    block, (left, right) = known(f)["table.weight"]
    assert block.left == DIAGONAL and left.shape == (1, 6) and right.shape == (1, 3, 3)
    apart = objective(made(Embedded), tokens(1, 1))
    apart.network.theta[:18] = apart.network.theta[18:] = f.network.theta[:18]  # the tied one's weight, twice
    if bias == "bias":
        assert "last.bias" in known(f)
    else:
        (a, b), (c, d) = (pair for _, pair in known(apart).values())
        total = a.sum() * b[0].trace() + c[0].trace() * d[0].trace()
        close(left.sum() * right[0].trace(), total)
        close(left[0], a[0] * b[0].trace() + c[0].diagonal() * d[0].trace())
        close(right, (b * a.sum() + d * c[0].trace()) / total)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(x[:, 0])) + torch.tanh(self.shared(x[:, 1])))


class OverPositions(Siamese):
    def forward(self, x):
        return self.last(torch.tanh(self.shared(x)).sum(1))


@pytest.mark.parametrize("sharing", [expand, reduce])
def test_a_layer_called_twice_is_a_layer_over_two_positions(sharing):
    x = drawn(5, 2, 4)
    close(
        matrix(objective(made(Siamese), x), sharing=sharing), matrix(objective(made(OverPositions), x), sharing=sharing)
    )


def test_two_layers_with_one_weight_are_a_layer_called_twice():
    class Tied(Twice):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(4, 4)
            self.other.weight, self.other.bias = self.shared.weight, self.shared.bias

        def forward(self, x):
            return self.last(torch.tanh(self.other(torch.tanh(self.shared(x)))))

    once, tied = made(Twice), made(Tied)
    tied.load_state_dict(once.state_dict() | {"other." + k: v for k, v in once.shared.state_dict().items()})
    x = drawn(5, 4)
    close(matrix(objective(tied, x)), matrix(objective(once, x)))


def test_a_bias_that_two_weights_share_has_a_block_of_its_own_which_is_exact():
    module = made(Siamese)
    module.second = made(nn.Linear, 4, 4, seed=1)
    module.second.bias = module.shared.bias
    module.forward = lambda x: module.last(torch.tanh(module.shared(x[:, 0])) + torch.tanh(module.second(x[:, 1])))
    f = objective(module, drawn(5, 2, 4))
    parts = known(f)
    assert parts["shared.weight"][0].bias == -1 and parts["second.weight"][0].bias == -1
    places = f.network.views(torch.arange(len(f.network.theta), dtype=DOUBLE))["shared.bias"].long()
    close(parts["shared.bias"][1][0][0], exact(f)[places[:, None], places])


NORMALISATIONS = {
    "layer": (nn.LayerNorm(4), (5, 4)),
    "layer over positions": (nn.LayerNorm(4), (5, 3, 4)),
    "layer over two axes": (nn.LayerNorm((3, 4)), (5, 3, 4)),
    "root mean square": (nn.RMSNorm(4), (5, 3, 4)),
    "group": (nn.GroupNorm(2, 4), (5, 4, 3)),
    "instance": (nn.InstanceNorm2d(4, affine=True), (5, 4, 3, 2)),
    "batch, evaluating": (nn.BatchNorm2d(4).eval(), (5, 4, 3, 2)),
    "batch, one example": (nn.BatchNorm1d(4), (1, 4, 3)),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_scale_and_shift_of_a_normalisation_have_their_exact_blocks(name):
    norm, shape = NORMALISATIONS[name]
    x = drawn(*shape)
    rest = made(nn.Sequential, nn.Tanh(), nn.Flatten(), nn.Linear(x[0].numel(), 3))
    norm = made(lambda: norm)
    f = objective(nn.Sequential(norm, rest), x)
    mine, whole = matrix(f), blocks_of(exact(f), f)
    size = sum(p.numel() for p in norm.parameters())
    close(mine[:size, :size], whole[:size, :size])


def test_with_batch_statistics_in_training_the_examples_depend_on_each_other_and_it_is_right_in_the_mean():
    module = nn.Sequential(made(nn.BatchNorm1d, 3), nn.Tanh(), made(nn.Linear, 3, 2))
    f = objective(module, drawn(4, 3))
    mean = torch.stack([matrix(f, t=t) for t in range(150)]).mean(0)
    whole = blocks_of(exact(f), f)
    assert (mean[:6, :6] - whole[:6, :6]).norm() < 0.1 * whole[:6, :6].norm()


# What is not trained, not reached, not known


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_has_no_place_in_theta_and_the_other_has_its_block(frozen):
    module = made(nn.Sequential, nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].get_parameter(frozen).requires_grad_(False)
    f = objective(module, drawn(1, 3))
    close(matrix(f), blocks_of(exact(f), f, ("2.weight", "2.bias")))
    assert treatment(f, f.network.theta)[f"0.{frozen}"] == "not trained"


def test_a_parameter_that_the_outputs_do_not_depend_on_has_no_block():
    module = made(Twice)
    module.unused = made(nn.Linear, 2, 2)
    f = objective(module, drawn(5, 4))
    assert "unused.weight" not in known(f)
    assert treatment(f, f.network.theta)["unused.bias"] == "not reached"


class Positioned(nn.Module):
    """A parameter that is added, as positions are."""

    def __init__(self):
        super().__init__()
        self.position, self.last = nn.Parameter(torch.zeros(3, 4)), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(x + self.position)).mean(1)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.T @ g


class OutOfSight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 2))

    def forward(self, x):
        return Hidden.apply(x, self.weight)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


class Slices(nn.Module):
    """One weight whole, and a part of it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x):
        return F.linear(torch.tanh(F.linear(x, self.weight)), self.weight[:2])


UNKNOWN = {
    "added": (Positioned, (5, 3, 4), "position, used by add"),
    "a product": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), (5, 4), "original0, used by _weight"),
    "recurrent": (Recurrent, (5, 3, 4), "lstm.weight_ih_l0, used by lstm"),
    "out of sight": (OutOfSight, (5, 4), "weight, used by an operation out of sight"),
    "parts": (Slices, (5, 4), "weight, used by several layers, by each another part of it"),
    "bilinear": (lambda: nn.Sequential(Bilinear()), (5, 4), "weight, used by bilinear"),
}


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.two = nn.Bilinear(4, 4, 2)

    def forward(self, x):
        return self.two(x, x.square())


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_factors_is_refused_by_name_and_use(name):
    make, shape, words = UNKNOWN[name]
    with pytest.raises(CurvatureError, match=words):
        known(objective(made(make), drawn(*shape)))


@pytest.mark.parametrize("name", UNKNOWN)
def test_or_has_its_diagonal_right_in_the_mean_or_the_mean_of_that(name):
    make, shape, _ = UNKNOWN[name]
    f = objective(made(make), drawn(*shape))
    n = len(f.network.theta)
    whole, places = exact(f).diagonal(), torch.arange(n, dtype=DOUBLE)
    means = {}
    for t in range(3):
        for of_one in known(f, samples=200, others=diagonal, t=t).values():
            for block, (left, right) in of_one if isinstance(of_one, list) else [of_one]:
                if block.left == DIAGONAL and block.columns == 1:
                    means.setdefault(block, []).append(left * right)
    assert means
    for block, found in means.items():
        expected = whole[block.matrix(places).long().reshape(-1)]
        mean = torch.stack(found).mean(0)[0]
        assert (mean - expected).norm() < 0.25 * expected.norm()
        (number, *_) = [
            left for b, (left, _) in known(f, samples=200, others=scalar).values() if b.at == block.at
        ]  # fmt: skip
        assert float(number) == pytest.approx(float(expected.mean()), rel=0.25)


def test_what_is_known_keeps_its_factors_beside_what_is_not():
    module = made(Positioned)
    with_it = known(objective(module, drawn(5, 3, 4)), others=diagonal)
    module.position.requires_grad_(False)
    close(with_it["last.weight"][1], known(objective(module, drawn(5, 3, 4)))["last.weight"][1])


def test_a_side_longer_than_max_dim_has_its_diagonal():
    f = objective(made(nn.Sequential, nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)), drawn(5, 3))
    whole, cut = known(f), known(f, max_dim=6)
    close(cut["0.weight"][1][0], whole["0.weight"][1][0].diagonal(dim1=1, dim2=2))
    close(cut["0.weight"][1][1], whole["0.weight"][1][1])
    close(cut["2.weight"][1][1], whole["2.weight"][1][1].diagonal(dim1=1, dim2=2))


# Around an evaluation


@pytest.mark.parametrize("inplace", [False, True])
def test_activations_in_place_change_nothing(inplace):
    f = objective(made(nn.Sequential, nn.Linear(3, 4), nn.ReLU(inplace), nn.Linear(4, 2)), drawn(1, 3))
    close(matrix(f), blocks_of(exact(f), f, ("0.weight", "0.bias"), ("2.weight", "2.bias")))


def closed(module, x, y, **more):
    """f behind a closure; it may add a penalty, or not tell its outputs."""

    def closure():
        z = module(x)
        loss = F.mse_loss(z, y)
        loss = loss + sum(p.square().sum() for p in module.parameters()) if more.get("penalty") else loss
        return (loss, z) if more.get("tells", True) else loss

    return Objective(closure, [p for p in module.parameters() if p.requires_grad], module, F.mse_loss)


@pytest.mark.parametrize("more", [{}, {"tells": False}, {"penalty": True}], ids=str)
def test_behind_a_closure_it_is_the_same(more):
    """Its outputs are the module's where it does not tell; a penalty does not pass for a use of the weights."""
    x, y = drawn(5, 3), drawn(5, 2, seed=1)
    module = made(nn.Sequential, nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    f = objective(made(nn.Sequential, nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), x, y=y)
    theirs = [pair for _, pair in known(f).values()]
    found = evaluated(closed(module, x, y, **more), f.network.theta, refuse, 2048, 0, 0, 0)
    close(factors(found), theirs)


def test_buffers_and_generators_are_as_before():
    module = nn.Sequential(made(nn.Linear, 3, 4), nn.BatchNorm1d(4).double(), nn.Dropout(), made(nn.Linear, 4, 2))
    x, y = drawn(8, 3), drawn(8, 2, seed=1)
    for f in (closed(module, x, y), objective(module, x, y=y)):
        buffers, state = [b.clone() for b in module.buffers()], torch.get_rng_state()
        theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        evaluated(f, theta, refuse, 2048, 1, 0, 0)
        assert all(torch.equal(a, b) for a, b in zip(buffers, module.buffers(), strict=True))
        assert torch.equal(state, torch.get_rng_state())


def test_it_says_what_it_needs():
    x, y = drawn(5, 3), drawn(5, 2)
    module = made(nn.Sequential, nn.Linear(3, 2))
    f = closed(module, x, y)
    with pytest.raises(CurvatureError, match="theta has 3 components, the trained parameters of the module 8"):
        evaluated(Objective(f.closure, [torch.zeros(3)], module, F.mse_loss), torch.zeros(3), refuse, 2048, 1, 0, 0)
    with pytest.raises(CurvatureError, match="f has to say its module"):
        evaluated(lambda theta: theta.sum(), torch.zeros(2), refuse, 2048, 1, 0, 0)


def test_outputs_with_an_axis_of_positions_have_a_loss_at_each():
    """Of one example with several of them all columns are told apart; a classifier's axis is the second."""
    f = objective(made(nn.Linear, 3, 2), drawn(1, 4, 3))
    _, (left, right) = known(f)["weight"]
    places = torch.cat([drawn(1, 4, 3)[0], torch.ones(4, 1, dtype=DOUBLE)], dim=1)
    close(right[0], places.T @ places / 4)
    close(left[0], 4 * 2 / 8 * torch.eye(2, dtype=DOUBLE))
    module = made(nn.Conv1d, 3, 4, 1)
    pixels = objective(module, drawn(5, 3, 6), F.cross_entropy, tokens(5, 6, count=4))
    flat = objective(
        nn.Sequential(nn.Flatten(), made(nn.Linear, 3, 4)), drawn(5, 3, 6).transpose(1, 2).reshape(30, 3),
        F.cross_entropy, tokens(5, 6, count=4).reshape(-1),
    )  # fmt: skip
    flat.network.theta.copy_(pixels.network.theta)
    close(known(pixels)["weight"][1], known(flat)["1.weight"][1])


def test_the_layout_of_a_layer_is_where_its_parameters_are():
    f = objective(made(nn.Sequential, nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), drawn(4, 2))
    block = known(f)["2.weight"][0]
    assert (block.at, block.bias, block.rows, block.columns) == (9, 12, 1, 4)
    vector = torch.arange(13, dtype=DOUBLE)
    assert block.matrix(vector).tolist() == [[[9, 10, 11, 12]]]
    back = torch.zeros(13, dtype=DOUBLE)
    block.put(block.matrix(vector), back)
    assert math.isclose(float(back.sum()), 42) and float(back[:9].abs().sum()) == 0
