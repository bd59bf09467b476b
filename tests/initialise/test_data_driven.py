"""What is found on a batch: scales of layers, one gain, biases of the output."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from thalweg.core.errors import NetworkError, ProblemError
from thalweg.initialise.model import initialise
from thalweg.initialise.output import begin_output, log_frequencies, log_odds
from thalweg.initialise.weight import gain


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def deep(width, depth, phi):
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), phi())))


def outputs(model, x):
    """What comes out of every layer that has weights."""
    seen, kinds = [], (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    handles = [m.register_forward_hook(lambda m, a, z: seen.append(z)) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


CONVOLUTIONAL = (
    nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip


@pytest.mark.parametrize("model", [deep(32, 12, nn.ReLU), deep(32, 12, nn.Tanh), nn.Sequential(*CONVOLUTIONAL)])
def test_lsuv_gives_every_layer_outputs_of_variance_one(model):
    x = 3 * drawn(100, 1, 8, 8) + 1 if isinstance(model[0], nn.Conv2d) else 3 * drawn(100, 32) + 1
    initialise(model, "lsuv", x)
    for z in outputs(model, x):
        assert float(z.var()) == pytest.approx(1, abs=0.01)


def test_lsuv_only_scales_orthogonal_weights():
    model, x = deep(16, 3, nn.ReLU), drawn(50, 16)
    report = initialise(model, "lsuv", x)
    for layer in model[::2]:
        values = torch.linalg.svdvals(layer.weight.detach())
        torch.testing.assert_close(values, values[:1].expand_as(values))
    assert "orthogonal, fan in 16 and out 16, times " in report.parameters[0].what
    assert report.parameters[0].what.endswith("for outputs of variance 1")


def test_lsuv_takes_several_passes_where_a_layer_is_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(16, 16), nn.Linear(16, 16)
            self.last.weight = self.first.weight

        def forward(self, x):
            return self.last(torch.tanh(self.first(torch.tanh(self.first(x)))))

    model = Twice()
    initialise(model, "lsuv", drawn(50, 16))
    assert float(outputs(model, drawn(50, 16))[-1].var()) == pytest.approx(1, abs=0.01)


def test_lsuv_works_on_weight_norm_and_is_a_function_of_the_seed_with_dropout():
    def build():
        normed = parametrizations.weight_norm(nn.Linear(16, 16))
        return nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.ReLU(), normed)

    models = [build(), build()]
    for model in models:
        torch.rand(3)  # the generator of everybody else moves on
        initialise(model, "lsuv", drawn(200, 16), generator=7)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    models[0].eval()
    assert float(outputs(models[0], drawn(200, 16))[0].var()) == pytest.approx(1, abs=0.01)


def test_lsuv_refuses_a_layer_that_answers_the_same_to_all():
    with pytest.raises(
        NetworkError, match=r"0.weight answers with a variance of 0 on the batch: no scale makes that 1"
    ):
        initialise(deep(4, 2, nn.ReLU), "lsuv", torch.zeros(5, 4))


def test_a_gain_is_found_that_keeps_the_signal():
    """In deep nets the gain of tanh; of ReLU, where nothing pulls the signal back, √2 less what the start makes."""
    model = deep(200, 30, nn.Tanh)
    found = initialise(model, "gain_search", drawn(100, 200)).parameters[0].what
    assert float(found.split("times ")[1].split()[0]) == pytest.approx(gain(torch.tanh), rel=0.03)
    model = deep(200, 20, nn.ReLU)
    found = initialise(model, "gain_search", drawn(100, 200)).parameters[0].what
    assert float(found.split("times ")[1].split()[0]) == pytest.approx(2 ** (0.5 * (1 - 1 / 19)), rel=0.02)
    assert float(outputs(model, drawn(100, 200))[-2].square().mean()) == pytest.approx(1, abs=0.01)


def test_a_gain_search_says_where_the_gain_does_not_decide():
    model = deep(8, 4, nn.ReLU)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NetworkError, match=r"4.weight has a mean square of 0 .* it is not the gain that decides"):
        initialise(model, "gain_search", torch.zeros(20, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# The output's bias


def test_a_model_that_knows_only_frequencies_starts_with_the_entropy_of_the_targets():
    targets = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    initialise(model)
    with torch.no_grad():
        model[2].weight.zero_()
    assert begin_output(model, log_frequencies(targets, 3)) == "2.bias"
    p = torch.tensor([0.7, 0.2, 0.1])
    loss = nn.functional.cross_entropy(model(drawn(100, 4)), targets)
    assert float(loss.detach()) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)


def test_an_absent_class_has_a_finite_bias_and_is_rarer_than_a_present_one():
    bias = log_frequencies(torch.tensor([0, 0, 1]), 3)
    assert torch.isfinite(bias).all() and bias[0] > bias[1] > bias[2]


def test_log_odds_are_those_of_each_label():
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(log_odds(targets).sigmoid(), torch.tensor([0.75, 0.125]))
    assert log_odds(targets[:, 0])[0] == pytest.approx(math.log(3))


@pytest.mark.parametrize("targets", [torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([0.5])])
def test_targets_that_are_no_classes_are_refused(targets):
    with pytest.raises(ProblemError, match="the targets must be whole numbers from 0 to 2"):
        log_frequencies(targets, 3)


def test_targets_that_are_no_frequencies_are_refused():
    with pytest.raises(ProblemError, match="the targets must be from 0 to 1"):
        log_odds(torch.tensor([2.0]))
    with pytest.raises(ProblemError, match="there are none"):
        log_odds(torch.zeros(0))


def test_an_output_without_a_bias_of_that_shape_is_refused():
    with pytest.raises(NetworkError, match=r"no layer has a bias of shape \(3,\)"):
        begin_output(nn.Linear(4, 3, bias=False), torch.zeros(3))
