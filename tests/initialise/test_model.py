"""initialise: what becomes of each layer, and that nothing else changes."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import thalweg as tw
from thalweg.core.errors import AlgorithmError, NetworkError
from thalweg.initialise.layers import contents
from thalweg.initialise.model import initialise
from thalweg.initialise.variance import lecun_normal


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 4))


def said(report):
    return {p.name: p.what for p in report.parameters}


def state(model):
    return {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}


def same(model, before):
    return all(torch.equal(t, before[n]) for n, t in [*model.named_parameters(), *model.named_buffers()])


# Layers


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(200, 100), (200,)),
        (nn.Conv1d(64, 64, 3, padding=1, padding_mode="circular"), (64, 30)),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2, padding_mode="circular"), (64, 10, 10)),
        (nn.Conv2d(64, 64, 2, stride=2), (64, 10, 10)),
        (nn.ConvTranspose2d(64, 64, 2, stride=2), (64, 10, 10)),
        (nn.ConvTranspose2d(64, 32, 4, stride=2, groups=4), (64, 20, 20)),
    ],
)
def test_fans_are_right_forwards_and_backwards(layer, shape):
    """With variance 1 / fan in the outputs are as large as the inputs, with 1 / fan out the gradients are."""

    def by_fan_out(weight, generator):
        return lecun_normal(weight._replace(fan_in=weight.fan_out), generator)

    x = drawn(64, *shape).requires_grad_()
    initialise(layer, lecun_normal)
    assert float(inner(layer(x)).detach().square().mean()) == pytest.approx(1, rel=0.1)
    initialise(layer, by_fan_out)
    z = layer(x)
    (g,) = torch.autograd.grad(z, x, drawn(*z.shape, seed=1))
    assert float(inner(g).square().mean()) == pytest.approx(1, rel=0.1)


def inner(x):
    """Without what lies at the edges, where a kernel hangs over."""
    return x[(..., *(slice(2, -2) for _ in x.shape[2:]))] if x.dim() > 2 else x


def test_each_group_of_a_convolution_is_a_map_of_its_own():
    layer = nn.Conv2d(8, 8, 3, groups=4)
    initialise(layer, "orthogonal")
    for group in layer.weight.detach()[:, :, 1, 1].chunk(4):
        torch.testing.assert_close(group @ group.T, torch.eye(2))
    assert said(initialise(layer))["weight"] == "4 times he_normal, fan in 18 and out 18"


def test_gates_are_maps_of_their_own_and_forget_gates_are_open():
    layer = nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    initialise(layer, "orthogonal")
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.detach().chunk(4):
                torch.testing.assert_close(gate @ gate.T, torch.eye(7))
        if name.startswith("bias"):
            forget = 1.0 if name.startswith("bias_ih") else 0.0
            torch.testing.assert_close(parameter.detach(), torch.tensor([0.0, forget, 0.0, 0.0]).repeat_interleave(7))


@pytest.mark.parametrize("layer", [nn.RNN(5, 7), nn.GRU(5, 7), nn.GRUCell(5, 7), nn.LSTMCell(5, 7), nn.RNNCell(5, 7)])
def test_the_identity_is_in_every_gate(layer):
    initialise(layer, "identity")
    weight = next(p for n, p in layer.named_parameters() if n.startswith("weight_hh")).detach()
    torch.testing.assert_close(weight, torch.eye(7).repeat(len(weight) // 7, 1))


def test_an_identity_network_of_relu_keeps_its_state_for_ever():
    """IRNN: what a state was, it is after 100 steps without input (Le et al. 2015)."""
    layer = nn.RNN(3, 7, nonlinearity="relu")
    initialise(layer, "identity")
    first = drawn(1, 1, 7).abs()
    torch.testing.assert_close(layer(torch.zeros(100, 1, 3), first)[1], first)


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(12, 2), nn.MultiheadAttention(12, 2, kdim=5, vdim=6)])
def test_queries_keys_and_values_are_maps_of_their_own(layer):
    report = initialise(layer, "orthogonal")
    whole = layer.in_proj_weight
    for part in whole.detach().chunk(3) if whole is not None else (layer.q_proj_weight, layer.v_proj_weight):
        values = torch.linalg.svdvals(part.detach())
        torch.testing.assert_close(values, torch.ones_like(values))
    assert said(report)["in_proj_bias"] == "0" and not report.left_alone()


def test_a_table_has_rows_of_variance_one_and_its_padding_stays_zero():
    layer = nn.Embedding(1000, 20, padding_idx=3)
    for scheme in ("lecun_normal", "orthogonal", "sparse", "identity"):
        initialise(layer, scheme)
        assert not layer.weight[3].any() and float(layer.weight.detach().var()) == pytest.approx(1, rel=0.05)


def test_norms_are_one_biases_zero_and_what_is_unknown_is_left_alone_with_a_reason():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((3,), 7.0))

    model = nn.Sequential(mlp(), nn.BatchNorm1d(4), nn.PReLU(), Own())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model[0][0].requires_grad_(False)
    report = initialise(model)
    assert said(report) == {
        "0.0.weight": "left alone: frozen", "0.0.bias": "left alone: frozen",
        "0.2.weight": "1", "0.2.bias": "0", "0.3.weight": "he_normal, fan in 16 and out 4", "0.3.bias": "0",
        "1.weight": "1", "1.bias": "0", "2.weight": "0.25",
        "3.scale": "left alone: no layer that is known, but a parameter of Own",
    }  # fmt: skip
    assert [p.name for p in report.left_alone()] == ["0.0.weight", "0.0.bias", "3.scale"]
    assert (model[0][0].weight == 7).all() and (model[3].scale == 7).all() and (model[1].weight == 1).all()


def test_every_layer_of_torch_with_parameters_is_known():
    layers = [
        nn.Bilinear(3, 4, 5), nn.Conv3d(4, 4, 2), nn.ConvTranspose1d(4, 4, 3), nn.EmbeddingBag(5, 4), nn.GRU(3, 4),
        nn.GroupNorm(2, 4), nn.InstanceNorm2d(3, affine=True), nn.RMSNorm(4), nn.SyncBatchNorm(3), nn.RNNCell(3, 4),
        nn.LSTM(3, 4, proj_size=2), nn.TransformerEncoderLayer(8, 2), nn.TransformerDecoderLayer(8, 2),
    ]  # fmt: skip
    for layer in layers:
        assert not initialise(layer).left_alone(), layer
    assert [made for _, made in contents(nn.Softmax(), {})] == []


def test_tied_weights_are_drawn_once_as_where_most_inputs_are_summed_up():
    model = nn.ModuleDict({"table": nn.Embedding(50, 16), "out": nn.Linear(16, 50, bias=False)})
    model["out"].weight = model["table"].weight
    report = initialise(model, "lecun_normal")
    assert said(report) == {"table.weight = out.weight": "lecun_normal, fan in 16 and out 50"}
    assert float(model["table"].weight.detach().std()) == pytest.approx(0.25, rel=0.1)


# Parametrised, lazy and odd modules


def test_a_weight_norm_weight_is_what_the_scheme_draws():
    plain, normed = nn.Linear(6, 5), parametrizations.weight_norm(nn.Linear(6, 5))
    initialise(plain)
    report = initialise(normed)
    torch.testing.assert_close(normed.weight, plain.weight)
    assert said(report)["weight"] == "he_normal, fan in 6 and out 5"


@pytest.mark.parametrize("shape", [(6, 6), (4, 6)])
def test_an_orthogonal_weight_takes_orthogonal_schemes_and_is_left_alone_by_others(shape):
    layer = parametrizations.orthogonal(nn.Linear(*shape))
    before = layer.weight.detach().clone()
    left = initialise(layer, "he_normal").left_alone()
    assert [p.what for p in left] == ["left alone: _Orthogonal cannot give what he_normal draws"]
    torch.testing.assert_close(layer.weight.detach(), before)
    plain = nn.Linear(*shape)
    initialise(plain, "orthogonal", generator=1)
    rng = torch.get_rng_state()
    assert not initialise(layer, "orthogonal", generator=1).left_alone()
    torch.testing.assert_close(layer.weight.detach().abs(), plain.weight.detach().abs(), rtol=1e-4, atol=1e-5)
    assert torch.equal(rng, torch.get_rng_state())


def test_parametrised_parameters_stay_views_of_theta():
    network = tw.Network(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2))), nn.functional.mse_loss)
    initialise(network.module, "orthogonal")
    theta = network.theta.clone()
    with torch.no_grad():
        network.theta.zero_()
    assert not any(p.any() for p in network.parameters) and theta.any()


def test_the_old_weight_norm_is_left_alone_with_advice():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Linear(3, 2))
    assert "use torch.nn.utils.parametrizations.weight_norm" in said(initialise(layer))["weight_g"]


def test_removing_a_parametrisation_leaves_what_was_drawn():
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    initialise(layer, "orthogonal")
    drawn_ = layer.weight.detach().clone()
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer.weight.detach(), drawn_)


def test_lazy_layers_need_data():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(NetworkError, match=r"0\.weight has no shape before the first batch: give data"):
        initialise(model)
    assert said(initialise(model, data=drawn(5, 3)))["0.weight"] == "he_normal, fan in 3 and out 4"


def test_parameters_on_the_meta_device_and_complex_ones_are_left_alone():
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    assert all("meta" in p.what for p in initialise(model).parameters)
    assert all("complex" in p.what for p in initialise(nn.Linear(3, 2, dtype=torch.complex64)).parameters)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_get_the_same_numbers_rounded(dtype):
    plain, other = nn.Linear(3, 2), nn.Linear(3, 2, dtype=dtype)
    initialise(plain)
    initialise(other)
    torch.testing.assert_close(other.weight.float(), plain.weight, rtol=1e-2, atol=0)


def test_a_wrapped_model_and_one_without_parameters_are_no_trouble():
    assert initialise(nn.ReLU()).parameters == ()
    assert said(initialise(nn.DataParallel(nn.Linear(3, 2))))["module.bias"] == "0"


# Nothing else changes


@pytest.mark.parametrize("scheme", ["he_normal", "lsuv", "gain_search"])
def test_only_parameters_change(scheme):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 16),
                          nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))  # fmt: skip
    model[2].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, rng = copy.deepcopy(model), torch.get_rng_state()
    places = [p.data_ptr() for p in model.parameters()]
    initialise(model, scheme, drawn(30, 8))
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before.buffers(), strict=True))
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert not any(m._forward_hooks for m in model.modules())
    assert all((p.grad == 1).all() and p.requires_grad for p in model.parameters())
    assert places == [p.data_ptr() for p in model.parameters()]
    assert not torch.equal(model[0].weight, before[0].weight)


def nothing(weight, generator):
    if weight.name.startswith("3"):
        raise KeyError(weight.name)
    return lecun_normal(weight, generator)


def flat(weight, generator):
    return torch.zeros(3)


def infinite(weight, generator):
    return torch.full(weight.shape, torch.inf)


@pytest.mark.parametrize(
    ("scheme", "data", "error", "message"),
    [
        ("he", None, AlgorithmError, "no initialisation is called 'he'"),
        (flat, None, AlgorithmError, r"flat gave shape \(3,\) for 0.weight: it must give .* of shape \(16, 8\)"),
        (infinite, None, AlgorithmError, "infinite gave numbers that are not finite for 0.weight"),
        (nothing, None, KeyError, "3.weight"),
        ("lsuv", None, AlgorithmError, "lsuv looks at data: give a batch"),
        ("lsuv", torch.ones(4, 9), RuntimeError, "shapes"),
        ("lsuv", torch.full((4, 8), torch.nan), NetworkError, "variance of nan on the batch"),
        ("gain_search", torch.ones(4, 8), NetworkError, "1 hidden layers; use lsuv"),
    ],
)
def test_on_an_error_everything_is_as_it_was(scheme, data, error, message):
    model, generator = mlp(), torch.Generator().manual_seed(4)
    before, rng, random = state(model), torch.get_rng_state(), generator.get_state()
    with pytest.raises(error, match=message):
        initialise(model, scheme, data, generator=generator)
    assert same(model, before) and not any(m._forward_hooks for m in model.modules())
    assert torch.equal(rng, torch.get_rng_state()) and torch.equal(random, generator.get_state())


def test_the_same_seed_gives_the_same_model_and_a_generator_goes_on():
    models = [mlp() for _ in range(4)]
    initialise(models[0], generator=5)
    generator = torch.Generator().manual_seed(5)
    initialise(models[1], generator=generator)
    initialise(models[2], generator=generator)
    assert same(models[1], state(models[0])) and not same(models[2], state(models[0]))


def test_theta_of_a_network_sees_it():
    network = tw.Network(mlp(), nn.functional.mse_loss)
    initialise(network.module, "constant")
    assert torch.equal(torch.unique(network.theta), torch.tensor([0.0, 0.01, 1.0]))


def test_the_report_reads_as_a_table():
    lines = str(initialise(mlp())).splitlines()
    assert lines[0] == "he_normal" and len(lines) == 7
    assert lines[1].split(maxsplit=3)[3] == "he_normal, fan in 8 and out 16"
    assert float(lines[1].split()[2]) == pytest.approx(math.sqrt(2 / 8), rel=0.2)
