import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import thalweg as tw
from thalweg import Batch, Network
from thalweg.challenges.inexact import (
    Draws,
    MeanEstimation,
    Noise,
    findings,
    gradient_noise,
    microbatch_gradients,
    over_training,
    without_bias,
)
from thalweg.challenges.sufficiency import sufficiency
from thalweg.core.errors import ProblemError
from thalweg.core.measured import Measured, exactly
from thalweg.learning.batches import Arrays, Batches


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def measured(away, seed, size=8, parts=32, batch_size=16):
    return gradient_noise(of_a_mean(away, seed, size, parts), batch_size)


def of_a_mean(away, seed, size, parts):
    """The gradients that microbatches of the problem have, in closed form: w - x."""
    problem = MeanEstimation(away)
    return Draws(problem.w.detach() - problem.drawn(size * parts, seed).inputs.view(parts, size, 4).mean(1), size)


def covered(interval, truth):
    return interval.low <= truth <= interval.high


def test_of_a_mean_to_be_estimated_gradients_are_w_less_x():
    problem = MeanEstimation(1.0)
    draws = microbatch_gradients(Network(problem, problem.loss), [problem.drawn(64, seed=1)])
    torch.testing.assert_close(draws.g, of_a_mean(1.0, 1, 8, 8).g)


def test_of_a_mean_to_be_estimated_the_noise_scale_is_5_3125():
    noise = measured(1.0, seed=1, parts=1500)
    assert noise.trace.value == pytest.approx(5.3125, rel=0.03)
    assert noise.squared.value == pytest.approx(1.0, rel=0.06)
    assert noise.scale.value == pytest.approx(5.3125, rel=0.06)


@pytest.mark.parametrize("parts", [8, 32])
@pytest.mark.parametrize("away", [1.0, 0.3, 0.0])
def test_intervals_of_the_noise_cover_in_90_of_100_with_a_gradient_or_without(away, parts):
    found = [measured(away, seed, parts=parts) for seed in range(100)]
    assert sum(covered(noise.trace, 5.3125) for noise in found) >= 90
    assert sum(covered(noise.squared, away**2) for noise in found) >= 90
    assert sum(covered(noise.scale, 5.3125 / away**2 if away else math.inf) for noise in found) >= 90
    assert all(noise.scale.low >= 0 and noise.squared.low >= 0 and noise.scale.value > 0 for noise in found)


def test_intervals_of_many_parameters_cover_too():
    scale = math.sqrt(5.3125 / 300)
    found = [gradient_noise(Draws(0.3 * torch.eye(300)[0] + scale * drawn(32, 300, seed=s), 1), 8) for s in range(100)]
    assert sum(covered(noise.scale, 5.3125 / 0.09) for noise in found) >= 90
    assert sorted(noise.scale.high for noise in found)[50] < 100


def test_the_error_of_a_gradient_falls_with_the_root_of_the_batch():
    """2.36 for one example, 0.1425 for 256 of them."""
    noise = measured(1.0, seed=1, parts=1500)
    assert noise.error(1).value == pytest.approx(math.sqrt(5.3125), rel=0.02)
    for b in (4, 16, 256):
        problem = MeanEstimation(1.0)
        g = torch.stack([problem.w.detach() - problem.drawn(b, seed).inputs.mean(0) for seed in range(400)])
        real = float((g - torch.eye(4, dtype=torch.float64)[0]).square().sum(1).mean().sqrt())
        assert noise.error(b).value == pytest.approx(real, rel=0.08)
    assert noise.error(64).value == pytest.approx(2 * noise.error(256).value)


def test_noise_only_is_said_where_there_is_no_gradient():
    for seed in range(20):
        noise = measured(0.0, seed, parts=128, batch_size=2)
        if math.isinf(noise.scale.high):
            (found,) = findings(noise)
            assert found.severity == "warning" and "noise only" in found.what and found.remedy == {"batch_size": 8}
    assert sum(math.isinf(measured(0.0, seed, parts=128).scale.high) for seed in range(20)) >= 17


def test_two_batch_sizes_say_the_same():
    """Equations A.2 and A.3 of McCandlish et al. 2018, of the mean |g|² of batches of 8 and of 64."""
    pairs = []
    for seed in range(1000):
        g = torch.eye(4, dtype=torch.float64)[0] - MeanEstimation(1.0).drawn(64, seed).inputs
        parts = g.view(8, 8, 4).mean(1)
        small, big = float(parts.square().sum(1).mean()), float(g.mean(0).square().sum())
        pairs.append(without_bias(Draws(parts, 8)))
        assert pairs[-1] == pytest.approx(((small - big) / (1 / 8 - 1 / 64), (64 * big - 8 * small) / (64 - 8)))
    noise = over_training(torch.tensor(pairs), batch_size=8)
    assert noise.scale.value == pytest.approx(5.3125, rel=0.05) and covered(noise.scale, 5.3125)


def test_pairs_of_draws_along_a_run_say_the_same():
    draws = of_a_mean(1.0, 0, 8, 4000).g.view(2000, 2, 4)
    pairs = torch.tensor([without_bias(Draws(pair, 8)) for pair in draws])
    noise = over_training(pairs, batch_size=8)
    assert noise.scale.value == pytest.approx(5.3125, rel=0.1) and covered(noise.scale, 5.3125)
    assert float(pairs[:, 1].min()) < 0


def test_the_noise_over_training_is_a_ratio_of_means():
    pairs = torch.tensor([[4.0, 0.01], [6.0, 1.99]])
    assert over_training(pairs, 8).scale.value == pytest.approx(5.0)


def test_how_far_a_batch_is_off_along_the_gradient_and_across():
    """Of a batch of 4: tr Sigma = 5.3125, along G it is 4."""
    truth = (math.sqrt(5.3125 / 4), math.sqrt(4 / 4), math.sqrt(1.3125 / 4))
    found = [sufficiency(of_a_mean(1.0, seed, 8, 32), batch_size=4) for seed in range(100)]
    for i, true in enumerate(truth):
        assert sum(covered(each[i], true) for each in found) >= 88
        assert sorted(each[i].value for each in found)[50] == pytest.approx(true, rel=0.15)
    nothing = sufficiency(Draws(MeanEstimation(0.0).drawn(24, 3).inputs, 1), batch_size=4)
    assert all(math.isinf(figure.high) for figure in nothing)


def network(*extra):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *extra, nn.Linear(8, 3)), nn.functional.cross_entropy)


def test_microbatches_are_gradients_of_their_examples_and_leave_all_as_it_was():
    net = network(nn.BatchNorm1d(8), nn.Dropout(0.5))
    batches = [Batch(drawn(30, 4, seed=s).float(), torch.arange(30) % 3) for s in range(2)]
    before, rng = net.state(), torch.get_rng_state()
    draws = microbatch_gradients(net, batches, parts=4)
    assert draws.g.shape == (8, len(net.theta)) and draws.size == 7
    assert all(torch.equal(before[name], value) for name, value in net.state().items())
    assert torch.equal(rng, torch.get_rng_state()) and all(p.grad is None for p in net.parameters)
    assert torch.equal(draws.g, microbatch_gradients(net, batches, parts=4).g)

    plain = network()
    draws = microbatch_gradients(plain, batches, parts=3)
    part = Batch(batches[0].inputs[10:20], batches[0].targets[10:20])
    torch.testing.assert_close(draws.g[1], plain.gradient(part)[1])


def test_dropout_is_noise_like_any_other():
    net = network(nn.Dropout(0.5))
    batch = Batch(torch.ones(16, 4), torch.zeros(16, dtype=torch.long))
    draws = microbatch_gradients(net, [batch], parts=16)
    assert gradient_noise(draws, 1).trace.low > 0


def test_too_few_examples_are_refused():
    with pytest.raises(ProblemError, match="a batch of 5 examples was given to be cut into 8: give at least 8"):
        microbatch_gradients(network(), [Batch(torch.ones(5, 4), torch.zeros(5, dtype=torch.long))])
    two = microbatch_gradients(network(), [Batch(torch.ones(5, 4), torch.zeros(5, dtype=torch.long))], parts=2)
    with pytest.raises(ProblemError, match="2 microbatches were given"):
        gradient_noise(two, 5)


def severities(scale, fallen=None, batch_size=32):
    return [
        (found.name, found.severity) for found in findings(Noise(exactly(1.0), exactly(1.0), scale, batch_size), fallen)
    ]


def test_noise_is_an_alarm_only_where_hardly_anything_was_learned_and_only_with_certainty():
    noisy, perhaps = Measured(1000.0, 500.0, 2000.0, 64), Measured(1000.0, 90.0, math.inf, 8)
    only, stuck, learned = Measured(math.inf, 500.0, math.inf, 64), exactly(0.02), exactly(0.6)
    assert severities(only) == severities(only, stuck) == [("gradient noise", "warning")]
    assert (
        severities(noisy, stuck)
        == severities(Measured(200.0, 170.0, 250.0, 64), stuck)
        == [("gradient noise", "warning")]
    )
    assert severities(noisy) == severities(noisy, learned) == severities(only, learned) == [("gradient noise", "note")]
    assert severities(perhaps) == severities(perhaps, stuck) == [("gradient noise", "unclear")]
    assert severities(perhaps, learned) == severities(Measured(150.0, 120.0, 190.0, 64), stuck) == []


def digits(seed, random):
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    y = torch.randint(10, y.shape, generator=generator) if random else y[order]
    return Arrays(x[order].float() / 16, y)


@pytest.mark.parametrize("random", [False, True])
def test_labels_at_random_are_noise_and_digits_are_not(random):
    for seed in range(5):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = Network(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), nn.functional.cross_entropy)
        batches = Batches(digits(seed, random), 32, seed=seed)
        losses = [step.loss for step in tw.descend(net, tw.sgd, [batches[t] for t in range(112)], lr=0.1)]
        noise = gradient_noise(microbatch_gradients(net, [batches[t] for t in range(112, 167)], parts=2), 32)
        found = findings(noise, exactly(1 - sum(losses[-20:]) / 20 / losses[0]))
        assert [each.severity for each in found] == (["warning"] if random else [])


def test_a_batch_of_more_than_three_noise_scales_is_wasteful():
    assert severities(Measured(8.0, 6.0, 10.0, 64)) == [("batch too large", "note")]
    assert severities(Measured(8.0, 6.0, 12.0, 64)) == []


@pytest.mark.parametrize("g", [torch.zeros(8, 5), torch.full((8, 5), math.nan), torch.full((8, 5), math.inf)])
def test_of_no_gradient_and_of_no_number_nothing_is_said(g):
    assert findings(gradient_noise(Draws(g, 4), 8)) == []
