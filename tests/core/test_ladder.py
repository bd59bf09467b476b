"""Products with a curvature, on every kind of module: right against differences in float64, or refused."""

import warnings
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

from thalweg.core.derivatives import gauss_newton_at, gradient, hessian, hessian_at, value_and_gradient
from thalweg.core.errors import CurvatureError
from thalweg.core.ladder import COARSE, DIFFERENCES, DOUBLE_BACKWARD, FINE, asymmetry, contradiction
from thalweg.core.network import Batch, Network
from thalweg.core.noise import signs
from thalweg.core.objective import Composed, Evaluations
from thalweg.execution.closure import Objective

DOUBLE = torch.float64


class Forward(nn.Module):
    """A module of a function of its parts and the inputs."""

    def __init__(self, forward, *parts):
        super().__init__()
        self.run, self.parts = forward, nn.ModuleList(parts)

    def forward(self, x):
        return self.run(x, *self.parts)


class Centred(nn.Module):
    """Keeps an average of its own, written in place or put in the place of the old one."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, h):
        new = (0.9 * self.mean + 0.1 * h.mean(dim=0)).detach()
        if self.in_place:
            self.mean.copy_(new)
        else:
            self.mean = new
        return h - self.mean


class Cube(torch.autograd.Function):
    """x³, whose way back is right, and takes x for a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, d):
        return 3 * ctx.x**2 * d


class CubeOnce(Cube):
    backward = staticmethod(torch.autograd.function.once_differentiable(Cube.backward))


class Turned(Cube):
    """No function has this gradient."""

    @staticmethod
    def backward(ctx, d):
        return 3 * ctx.x.roll(1, 1) ** 2 * d


def chain(*parts):
    return lambda: nn.Sequential(*(part() for part in parts))


def of(forward, *parts):
    return lambda: Forward(forward, *(part() for part in parts))


def linear(a=4, b=4):
    return lambda: nn.Linear(a, b)


def made(kind, *args, **knobs):
    return lambda: kind(*args, **knobs)


def last(x, layers, out):
    return out(layers(x)[0][:, -1])


def cells(x, cell, out):
    h = None
    for t in range(x.shape[1]):
        h = cell(x[:, t], h)
    return out(h[0] if isinstance(h, tuple) else h)


def packed(x, layers, out):
    sequences = rnn.pack_padded_sequence(x, [3, 3, 2, 2, 1], batch_first=True)
    return out(rnn.pad_packed_sequence(layers(sequences)[0], batch_first=True)[0][:, 0])


def attention(x, projection, out):
    q, k, v = projection(x)[:, None].chunk(3, dim=-1)
    return out(F.scaled_dot_product_attention(q, k, v).flatten(1))


def heads(x, layer, out):
    return out(layer(x, x, x)[0].mean(dim=1))


def heads_alone(x, layer, out):
    return out(layer(x, x, x, need_weights=False)[0].mean(dim=1))


def encoded(x, layer, out):
    return out(layer(x).mean(dim=1))


def added_in_place(x, first, out):
    h = first(x)
    h += x
    return out(torch.tanh(h))


def scaled_in_place(x, first, out):
    return out(torch.tanh(first(x.clone().mul_(0.5))))


def written(x, first, out):
    z = torch.zeros(len(x), 2, dtype=x.dtype)
    z[:] = out(torch.tanh(first(x)))
    return z


def branching(x, first, out):
    h = first(x)
    return out(torch.tanh(h) if h.sum() > 0 else torch.sin(h))


def with_item(x, first, out):
    return out(torch.tanh(x.abs().max().item() * first(x)))


def with_item_of_weights(x, first, out):
    h = first(x)
    return out(torch.tanh(h / h.std().item()))


def recomputed(reentrant):
    def forward(x, first, second, out):
        return out(checkpoint(lambda h: torch.tanh(second(h)), torch.tanh(first(x)), use_reentrant=reentrant))

    return forward


def not_recomputed(x, first, second, out):
    return out(torch.tanh(second(torch.tanh(first(x)))))


def spectrum(x, first, out):
    h = torch.fft.rfft(first(x))
    return out(torch.cat([h.real, h.imag, h.abs()], dim=1))


def through(function):
    return lambda x, first, out: out(function.apply(first(x)))


def doubly(x, layer):
    return layer(x, torch.tanh(x))


def compiled(parts):
    return lambda: torch.compile(parts(), backend="aot_eager")


def old(norm):
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return norm(nn.Linear(4, 4))


SHAPES = {"vectors": (5, 4), "sequences": (5, 3, 4), "1d": (5, 2, 6), "2d": (5, 2, 6, 6), "3d": (5, 2, 4, 4, 4)}
TANH, OUT, FLAT = nn.Tanh, linear(4, 2), nn.Flatten


class Kind(NamedTuple):
    make: object  # the module, in training mode
    inputs: str = "vectors"
    hessian: str | None = DOUBLE_BACKWARD  # the rungs; None where there is none
    gauss_newton: str | None = DOUBLE_BACKWARD
    training: bool = True
    like: object = None  # another module that is the same function, where this one cannot be differentiated plainly


ONCE = (DIFFERENCES, DIFFERENCES)
FIRST_ONLY = (DIFFERENCES, DOUBLE_BACKWARD)  # the first derivatives are right: J and its transpose are
KINDS = {
    "Linear": Kind(chain(linear(), TANH, OUT)),
    "Conv1d": Kind(chain(made(nn.Conv1d, 2, 3, 3), TANH, FLAT, linear(12, 2)), "1d"),
    "Conv2d": Kind(chain(made(nn.Conv2d, 2, 3, 3), TANH, FLAT, linear(48, 2)), "2d"),
    "Conv3d": Kind(chain(made(nn.Conv3d, 2, 3, 3), TANH, FLAT, linear(24, 2)), "3d"),
    "ConvTranspose": Kind(chain(made(nn.ConvTranspose2d, 2, 2, 2), TANH, FLAT, linear(98, 2)), "2d"),
    "BatchNorm in training": Kind(chain(linear(), made(nn.BatchNorm1d, 4), TANH, OUT)),
    "BatchNorm in evaluation": Kind(chain(linear(), made(nn.BatchNorm1d, 4), TANH, OUT), training=False),
    "LayerNorm": Kind(chain(linear(), made(nn.LayerNorm, 4), TANH, OUT)),
    "GroupNorm": Kind(chain(made(nn.Conv1d, 2, 4, 3), made(nn.GroupNorm, 2, 4), TANH, FLAT, linear(16, 2)), "1d"),
    "InstanceNorm": Kind(
        chain(made(nn.InstanceNorm1d, 2, affine=True, track_running_stats=True), TANH, FLAT, linear(12, 2)), "1d"
    ),
    "RMSNorm": Kind(chain(linear(), made(nn.RMSNorm, 4), TANH, OUT)),
    "Dropout": Kind(chain(linear(4, 9), TANH, nn.Dropout, linear(9, 2))),
    "Embedding": Kind(chain(made(nn.Embedding, 7, 4), FLAT, TANH, linear(12, 2)), "words"),
    "sparse Embedding": Kind(chain(made(nn.Embedding, 7, 4, sparse=True), FLAT, TANH, linear(12, 2)), "words"),
    "EmbeddingBag": Kind(chain(made(nn.EmbeddingBag, 7, 4), TANH, OUT), "words", *ONCE),
    "RNN": Kind(of(last, made(nn.RNN, 4, 4, batch_first=True), OUT), "sequences"),
    "GRU": Kind(of(last, made(nn.GRU, 4, 4, batch_first=True), OUT), "sequences"),
    "LSTM": Kind(of(last, made(nn.LSTM, 4, 4, batch_first=True), OUT), "sequences"),
    "RNNCell": Kind(of(cells, made(nn.RNNCell, 4, 4), OUT), "sequences"),
    "GRUCell": Kind(of(cells, made(nn.GRUCell, 4, 4), OUT), "sequences"),
    "LSTMCell": Kind(of(cells, made(nn.LSTMCell, 4, 4), OUT), "sequences"),
    "packed sequences": Kind(of(packed, made(nn.LSTM, 4, 4, batch_first=True), OUT), "sequences"),
    "attention": Kind(of(attention, linear(4, 12), linear(12, 2)), "sequences"),
    "MultiheadAttention": Kind(of(heads, made(nn.MultiheadAttention, 4, 2, batch_first=True), OUT), "sequences"),
    "MultiheadAttention without weights": Kind(
        of(heads_alone, made(nn.MultiheadAttention, 4, 2, batch_first=True), OUT), "sequences"
    ),
    "TransformerEncoderLayer in training": Kind(
        of(encoded, made(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True), OUT), "sequences"
    ),
    "TransformerEncoderLayer in evaluation": Kind(
        of(encoded, made(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True), OUT), "sequences", training=False
    ),
    "weight_norm": Kind(
        chain(lambda: parametrizations.weight_norm(nn.Linear(4, 4)), TANH, OUT), "vectors", *FIRST_ONLY
    ),
    "weight_norm of old": Kind(chain(lambda: old(nn.utils.weight_norm), TANH, OUT), "vectors", *FIRST_ONLY),
    "spectral_norm in training": Kind(
        chain(lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), TANH, OUT), "vectors", *FIRST_ONLY
    ),
    "spectral_norm in evaluation": Kind(
        chain(lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), TANH, OUT), training=False
    ),
    "spectral_norm of old": Kind(chain(lambda: old(nn.utils.spectral_norm), TANH, OUT), "vectors", *FIRST_ONLY),
    "ReLU in place": Kind(chain(linear(4, 8), made(nn.ReLU, inplace=True), linear(8, 2))),
    "h += x": Kind(of(added_in_place, linear(), OUT)),
    "x.mul_": Kind(of(scaled_in_place, linear(), OUT)),
    "out[:] =": Kind(of(written, linear(), OUT)),
    "GELU": Kind(chain(linear(), nn.GELU, OUT)),
    "softmax": Kind(chain(linear(), made(nn.Softmax, dim=1), OUT)),
    "max-pool": Kind(chain(made(nn.Conv2d, 2, 3, 3), made(nn.MaxPool2d, 2), FLAT, TANH, linear(12, 2)), "2d"),
    "checkpoint": Kind(
        of(recomputed(False), linear(), linear(), OUT), "vectors", DIFFERENCES, None,
        like=of(not_recomputed, linear(), linear(), OUT),
    ),
    "reentrant checkpoint": Kind(
        of(recomputed(True), linear(), linear(), OUT), "vectors", None, None,
        like=of(not_recomputed, linear(), linear(), OUT),
    ),
    "compiled": Kind(compiled(chain(linear(), TANH, OUT)), "vectors", *ONCE, like=chain(linear(), TANH, OUT)),
    "a way back in constants": Kind(of(through(Cube), linear(), OUT), "vectors", *FIRST_ONLY),
    "a way back to be taken once": Kind(of(through(CubeOnce), linear(), OUT), "vectors", *ONCE),
    "a gradient of no function": Kind(of(through(Turned), linear(), OUT), "vectors", None),
    "a branch on values": Kind(of(branching, linear(), OUT)),
    "an item of the inputs": Kind(of(with_item, linear(), OUT)),
    "an item of the weights": Kind(of(with_item_of_weights, linear(), OUT), "vectors", *FIRST_ONLY),
    "complex numbers within": Kind(of(spectrum, linear(4, 6), linear(12, 2))),
    "PReLU": Kind(chain(linear(), made(nn.PReLU, 4), OUT)),
    "Bilinear": Kind(of(doubly, made(nn.Bilinear, 4, 4, 2))),
    "buffers of one's own, in place": Kind(chain(linear(), made(Centred, True), TANH, OUT), "vectors", *FIRST_ONLY),
    "buffers of one's own, replaced": Kind(chain(linear(), made(Centred, False), TANH, OUT), "vectors", *FIRST_ONLY),
}  # fmt: skip


pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute"),  # of torch.compile, on parameters put in for others
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # of a reentrant checkpoint
]
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def loss(outputs, targets):
    return (outputs - targets).square().mean() + outputs.pow(4).mean()


def built(kind, dtype):
    """A network of a kind and a batch for it."""
    torch.manual_seed(1)
    module = kind.make().to(dtype).train(kind.training)
    words = torch.arange(15).reshape(5, 3) * 3 % 7
    inputs = words if kind.inputs == "words" else drawn(*SHAPES[kind.inputs]).to(dtype)
    return Network(module, loss), Batch(inputs, drawn(5, 2, seed=1).to(dtype))


class Plainly:
    """The same function by torch alone, in float64, on a module made anew for each evaluation."""

    def __init__(self, kind, network, batch):
        self.make, self.training = kind.like or kind.make, kind.training
        self.buffers = [buffer.clone() for buffer in network.module.buffers()]
        self.inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
        self.targets, self.random = batch.targets.double(), torch.get_rng_state()

    def outputs(self, theta):
        with torch.random.fork_rng():
            module = self.make().double().train(self.training)
            params = list(module.parameters())
            with torch.no_grad():
                for p, piece in zip(params, theta.split([p.numel() for p in params]), strict=True):
                    p.copy_(piece.view(p.shape))
                for mine, buffer in zip(module.buffers(), self.buffers, strict=True):
                    mine.copy_(buffer)
            torch.set_rng_state(self.random)
            return params, module(self.inputs)

    def gradient(self, theta):
        params, z = self.outputs(theta)
        loss(z, self.targets).backward()
        return torch.cat([p.grad.to_dense().reshape(-1) for p in params])

    def hessian_times(self, theta, u, h=1e-6):
        return (self.gradient(theta + h * u) - self.gradient(theta - h * u)) / (2 * h)

    def gauss_newton(self, theta):
        params, z = self.outputs(theta)
        rows = [torch.autograd.grad(one, params, retain_graph=True) for one in z.flatten()]
        j = torch.stack([torch.cat([piece.to_dense().reshape(-1) for piece in row]) for row in rows])
        curvature = torch.autograd.functional.hessian(lambda y: loss(y.view_as(z), self.targets), z.detach().flatten())
        return j.T @ curvature @ j


def close(found, expected, rung, dtype):
    precise = 1e-7 if dtype == DOUBLE else 2e-4
    error = (found.double() - expected).norm() / expected.norm()
    assert error < (precise if rung == DOUBLE_BACKWARD else 2e-2), f"{rung}, off by {error:.1e}"


@dtypes
@kinds
def test_a_hessian_product_is_right_and_says_its_rung_or_is_refused(kind, dtype):
    network, batch = built(kind, dtype)
    plain, f, theta = Plainly(kind, network, batch), network.on(batch), network.theta
    if kind.hessian is None:
        with pytest.raises(CurvatureError):
            hessian_at(f, theta)
        return
    product, u = hessian_at(f, theta), drawn(len(theta), seed=2)
    assert product.rung == kind.hessian
    close(product(u.to(dtype)), plain.hessian_times(theta.double(), u), product.rung, dtype)


@dtypes
@kinds
def test_a_gauss_newton_product_is_right_and_says_its_rung_or_is_refused(kind, dtype):
    network, batch = built(kind, dtype)
    plain, f, theta = Plainly(kind, network, batch), network.on(batch), network.theta
    if kind.gauss_newton is None:
        with pytest.raises(CurvatureError):
            gauss_newton_at(f, theta)
        return
    product, u = gauss_newton_at(f, theta), drawn(len(theta), seed=2)
    assert product.rung == kind.gauss_newton
    close(product(u.to(dtype)), plain.gauss_newton(theta.double()) @ u, product.rung, dtype)


@kinds
def test_module_modes_gradients_and_generator_are_bit_for_bit_as_they_were(kind):
    network, batch = built(kind, torch.float32)
    for k, p in enumerate(network.parameters):
        p.grad = torch.full_like(p, float(k))
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    random, training = torch.get_rng_state(), [part.training for part in network.module.modules()]
    f = network.on(batch)
    for products in (hessian_at, gauss_newton_at):
        try:
            product = products(f, network.theta)
        except CurvatureError:
            continue
        product(torch.ones_like(network.theta))
    after = network.module.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    assert all((p.grad == k).all() for k, p in enumerate(network.parameters))
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in network.module.modules()] == training


@pytest.mark.parametrize("name", ["weight_norm", "weight_norm of old"])
def test_weight_norm_is_noticed_by_its_asymmetry(name):
    network, batch = built(KINDS[name], torch.float32)
    hessian_at(network.on(batch), network.theta)
    assert "not symmetric" in network.rungs["why not hessian twice"]


@pytest.mark.parametrize("name", ["spectral_norm in training", "spectral_norm of old", "a way back in constants"])
def test_what_is_symmetric_and_wrong_is_noticed_by_differences(name):
    network, batch = built(KINDS[name], torch.float32)
    hessian_at(network.on(batch), network.theta)
    assert "apart" in network.rungs["why not hessian twice"]


def test_gradients_of_a_checkpointed_module_are_those_without_the_checkpoint_wherever_theta_is():
    kind = KINDS["checkpoint"]
    network, batch = built(kind, DOUBLE)
    elsewhere = network.theta + 0.3 * drawn(len(network.theta), seed=3)
    expected = Plainly(kind, network, batch).gradient(elsewhere)
    for f in (network.on(batch), Evaluations(network.on(batch))):
        value = f(elsewhere)
        found, g = value_and_gradient(f, elsewhere)
        torch.testing.assert_close((g, found), (expected, value.detach()), rtol=1e-12, atol=1e-12)


def relu_network(dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 9, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(81, 9), nn.ReLU())
    return Network(module.to(dtype), loss), Batch(drawn(200, 2, 8, 8).to(dtype), drawn(200, 9, seed=1).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_kinks_are_not_taken_for_errors(dtype):
    network, batch = relu_network(dtype)
    for products in (hessian_at, gauss_newton_at):
        assert products(network.on(batch), network.theta).rung == DOUBLE_BACKWARD


@pytest.mark.parametrize("scales", [(1e6, 1e-6, 1.0), (1e-9, 1.0, 1e9), (0.0, 0.0, 1e-30)])
def test_bad_scales_are_not_taken_for_errors(scales):
    theta = torch.tensor(scales, dtype=DOUBLE)
    assert hessian_at(lambda x: (x[0] * x[1] - 1) ** 2 + (x[2] - x[1]).exp(), theta).rung == DOUBLE_BACKWARD


def test_where_f_cannot_be_had_in_float64_small_errors_pass_and_large_ones_do_not():
    theta = drawn(6).float()
    matrix = drawn(6, 6, seed=1).float()
    tiny, large = (lambda x, share=share: (matrix @ x) @ x + share * Cube.apply(x).sum() for share in (0.01, 9.0))
    assert hessian_at(tiny, theta).rung == DOUBLE_BACKWARD
    assert hessian_at(large, theta).rung == DIFFERENCES
    torch.testing.assert_close(
        hessian_at(large, theta)(torch.ones(6)), (matrix + matrix.T).sum(dim=1) + 54 * theta, rtol=1e-2, atol=1e-2
    )


def test_an_objective_with_no_graph_at_all_is_not_taken_for_a_linear_one():
    theta = drawn(5)
    product = hessian_at(lambda x: CubeOnce.apply(x).sum(), theta)
    assert product.rung == DIFFERENCES
    torch.testing.assert_close(product(torch.ones(5, dtype=DOUBLE)), 6 * theta, rtol=1e-3, atol=1e-3)


def test_a_loss_that_differentiates_once_is_noticed_in_a_gauss_newton_product():
    f = Composed(lambda x: x**2, lambda z: CubeOnce.apply(z).sum())
    theta = drawn(5)
    product = gauss_newton_at(f, theta)
    assert product.rung == DIFFERENCES
    torch.testing.assert_close(product(torch.ones(5, dtype=DOUBLE)), 24 * theta**4)


def test_outputs_that_are_lost_on_the_way_there_are_noticed_though_the_product_is_symmetric():
    f = Composed(lambda x: torch.cat([x**2, CubeOnce.apply(x)]), lambda z: z.square().sum())
    theta = drawn(5)
    product = gauss_newton_at(f, theta)
    assert product.rung == DIFFERENCES and "way back" in f.rungs["why not gauss_newton twice"]
    torch.testing.assert_close(product(torch.ones(5, dtype=DOUBLE)), 8 * theta**2 + 18 * theta**4)


def test_complex_parameters_are_refused():
    network = Network(nn.Linear(3, 2, dtype=torch.complex64), lambda z, t: (z - t).abs().square().mean())
    f = network.on(Batch(torch.ones(4, 3, dtype=torch.complex64), torch.ones(4, 2)))
    for products in (hessian_at, gauss_newton_at):
        with pytest.raises(CurvatureError, match="real parameters"):
            products(f, network.theta)


def test_what_is_not_finite_proves_nothing():
    f = Composed(lambda x: x.sqrt(), lambda z: z.square().sum() + z.sum())
    theta = torch.tensor([-1.0, 2.0])
    assert hessian_at(f, theta).rung == DOUBLE_BACKWARD and "hessian" not in f.rungs
    assert hessian_at(f, torch.tensor([1.0, 2.0])).rung == DOUBLE_BACKWARD and f.rungs["hessian"] == DOUBLE_BACKWARD


@pytest.mark.parametrize(("name", "rung"), [("Linear", DOUBLE_BACKWARD), ("weight_norm", DIFFERENCES)])
def test_what_was_found_is_kept_and_not_probed_again(name, rung):
    network, batch = built(KINDS[name], torch.float32)
    passes = []
    network.module.register_forward_hook(lambda *_: passes.append(1))
    first = hessian_at(network.on(batch), network.theta)
    probing = len(passes)
    second = hessian_at(network.on(batch), network.theta)
    assert first.rung == second.rung == network.rungs["hessian"] == rung
    assert len(passes) - probing == (1 if rung == DOUBLE_BACKWARD else 0) and probing <= 9


def test_a_network_takes_theta_in_float64_frozen_parameters_and_buffers_with_it():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    network, batch = Network(module, loss), Batch(drawn(5, 4).float(), drawn(5, 2).float())
    f, theta = network.on(batch), network.theta
    value, g = value_and_gradient(f, theta.double())
    assert value.dtype == g.dtype == DOUBLE
    torch.testing.assert_close((value.float(), g.float()), value_and_gradient(f, theta))


@pytest.mark.parametrize("name", ["Linear", "weight_norm", "EmbeddingBag"])
def test_a_closure_goes_down_the_same_ladder(name):
    kind = KINDS[name]
    network, batch = built(kind, DOUBLE)
    plain, params = Plainly(kind, network, batch), list(network.module.parameters())
    f = Objective(lambda: loss(network.module(batch.inputs), batch.targets), params)
    theta, u = network.theta.clone(), drawn(len(network.theta), seed=2)
    product = hessian_at(f, theta)
    assert product.rung == kind.hessian
    close(product(u), plain.hessian_times(theta, u), product.rung, DOUBLE)
    with pytest.raises(CurvatureError, match="apart"):
        gauss_newton_at(f, theta)


def test_a_matrix_that_turns_is_asymmetric_whatever_its_size():
    for n in range(2, 12):
        turn = torch.ones(n, n).triu(1) - torch.ones(n, n).tril(-1)
        assert asymmetry(lambda u, turn=turn: turn @ u, torch.zeros(n)) > 0.01
        assert asymmetry(lambda u, turn=turn: turn.abs() @ u, torch.zeros(n)) < 1e-6


@pytest.mark.parametrize("precision", [FINE, COARSE])
def test_differences_contradict_only_where_they_agree_among_themselves(precision):
    theta, product = torch.ones(9, dtype=DOUBLE), lambda u: 1.8 * u
    assert contradiction(product, lambda x: x, theta, precision) == pytest.approx(0.8 / 1.8, rel=1e-5)
    assert contradiction(product, lambda x: 1.8 * x, theta, precision) == 0
    kinked = lambda x: x + precision.near * (x > 1)  # noqa: E731
    assert contradiction(product, kinked, theta, precision) == 0
    assert contradiction(product, lambda x: x + 1e9, theta * 1e-9, precision) == 0  # lost in rounding


@pytest.mark.parametrize("name", ["Linear", "weight_norm"])
def test_a_whole_hessian_is_symmetric_on_either_rung(name):
    network, batch = built(KINDS[name], DOUBLE)
    whole = hessian(network.on(batch), network.theta)
    expected = Plainly(KINDS[name], network, batch).hessian_times(network.theta, signs(network.theta, 5))
    assert torch.equal(whole, whole.T)
    close(whole @ signs(network.theta, 5), expected, KINDS[name].hessian, DOUBLE)


def test_the_gradient_of_a_sparse_embedding_is_dense_in_one_vector():
    kind = KINDS["sparse Embedding"]
    network, batch = built(kind, DOUBLE)
    expected = Plainly(kind, network, batch).gradient(network.theta)
    _, g = network.gradient(batch)
    torch.testing.assert_close((g, gradient(network.on(batch), network.theta)), (expected, expected))
