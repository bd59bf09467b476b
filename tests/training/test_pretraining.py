"""Stages of greedy pretraining: what each learns has a closed form where all is linear; the rest stays as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thalweg as tw
from thalweg import Batch, Network, descend
from thalweg.core.errors import ProblemError
from thalweg.training.autoencoding import Autoencoder, Tied, gaussian, masking, untied
from thalweg.training.pretraining import PRETRAINING, in_blocks, staged, stages

torch.set_num_threads(1)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*layers, loss=F.mse_loss):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Network(nn.Sequential(*(make() for make in layers)).double(), loss)


def linear(inputs, outputs):
    return lambda: nn.Linear(inputs, outputs)


def lowest(stage, batch, steps=300):
    """A stage's loss once its minimum is found."""
    seen = stage.sees(batch, 0)
    return [step.loss for step in descend(stage.network, tw.bfgs, [seen] * steps)][-1]


def projector(directions):
    """Onto the space that the columns of `directions: (d, r)` span."""
    q, _ = torch.linalg.qr(directions)
    return q @ q.T


# The closed forms


def correlated(n=40, d=6):
    """Examples whose principal directions are well apart."""
    return drawn(n, d) @ torch.diag(torch.tensor([5, 3, 2, 1, 0.5, 0.2], dtype=torch.float64)[:d]) @ drawn(d, d, seed=1)


@pytest.mark.parametrize("top", [untied, Tied])
def test_a_linear_autoencoder_finds_the_principal_subspace(top):
    x = correlated()
    net, batch = network(linear(6, 2), linear(2, 1)), Batch(x, torch.zeros(40, 1))
    stage = staged(net, 0, batch, Autoencoder(top=top))
    loss = lowest(stage, batch)
    stage.keep()
    centred = x - x.mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    assert loss == pytest.approx(float(s[2:].square().sum() / x.numel()), rel=1e-6)
    encoder = net.module[0].weight.detach().T
    decoder = stage.network.module[1][1].weight.detach() if top is untied else encoder
    torch.testing.assert_close(projector(decoder), v[:2].T @ v[:2], atol=1e-4, rtol=0)
    back = stage.network.outputs(x)
    torch.testing.assert_close(back, centred @ v[:2].T @ v[:2] + x.mean(0), atol=1e-3, rtol=1e-3)


def test_the_next_block_finds_the_principal_subspace_of_the_codes():
    x = correlated()
    net, batch = network(linear(6, 4), linear(4, 2), linear(2, 1)), Batch(x, torch.zeros(40, 1))
    losses = [(stage.number, stage.of, lowest(stage, batch)) for stage in stages(net, batch, "unsupervised")]
    codes = net.module[0](x).detach()
    s = torch.linalg.svdvals(codes - codes.mean(0))
    assert [loss[:2] for loss in losses] == [(1, 2), (2, 2)]
    assert losses[1][2] == pytest.approx(float(s[2:].square().sum() / codes.numel()), rel=1e-6)


def reduced_rank(x, y, rank):
    """The least mean of squares of y given by an affine map of x through so many numbers."""
    x, y = x - x.mean(0), y - y.mean(0)
    fitted = x @ torch.linalg.lstsq(x, y).solution
    s = torch.linalg.svdvals(fitted)
    return float(((y - fitted).square().sum() + s[rank:].square().sum()) / y.numel())


def test_linear_supervised_stages_find_what_their_narrowest_block_lets_through_and_none_raises_the_loss():
    x = correlated()
    y = x @ drawn(6, 4, seed=2) + drawn(40, 4, seed=3)
    net = network(linear(6, 4), linear(4, 2), linear(2, 3), linear(3, 4))
    batch = Batch(x, y)
    losses = [lowest(stage, batch) for stage in stages(net, batch)]
    best = [reduced_rank(x, y, 4), reduced_rank(x, y, 2), reduced_rank(x, y, 2)]
    assert losses == pytest.approx(best, rel=1e-6)
    assert losses[1] == pytest.approx(losses[2], rel=1e-6) and best[0] < best[1]
    assert float(F.mse_loss(net.outputs(x), y)) == pytest.approx(best[2], rel=1e-6)  # the model, before fine-tuning


def test_a_supervised_block_as_wide_as_the_one_below_does_not_raise_the_loss():
    x = correlated()
    y = torch.tanh(x @ drawn(6, 3, seed=2)) + drawn(40, 3, seed=3)
    net = network(linear(6, 3), nn.Tanh, linear(3, 3), linear(3, 3), linear(3, 3))
    losses = [lowest(stage, Batch(x, y)) for stage in stages(net, Batch(x, y))]
    assert losses[1] <= losses[0] * (1 + 1e-6) and losses[2] <= losses[1] * (1 + 1e-6)


# What a stage sees, trains and leaves alone


def sigmoid(loss=F.cross_entropy):
    return network(
        linear(5, 4), nn.Sigmoid, linear(4, 3), nn.Sigmoid, linear(3, 3), nn.Sigmoid, linear(3, 2), loss=loss
    )


def classes(n=20):
    return Batch(drawn(n, 5), torch.arange(n) % 2)


@pytest.mark.parametrize("kind", PRETRAINING)
def test_a_stage_trains_its_block_and_no_other(kind):
    net, batch = sigmoid(), classes()
    before = net.theta.clone()
    for stage in stages(net, batch, kind):
        for _ in descend(stage.network, tw.adam, stage.batches([batch] * 3), lr=0.1):
            pass
        assert torch.equal(net.theta, before)  # until it is kept
        stage.keep()
        moved = {name.split(".")[0] for name, p in net.views(net.theta - before).items() if p.any()}
        output = {"6"} if kind == "supervised" and stage.number == stage.of else set()
        assert moved == {str(2 * (stage.number - 1))} | output
        before = net.theta.clone()


def test_a_stage_sees_what_the_blocks_below_answer():
    net, batch = sigmoid(), classes()
    for k, stage in enumerate(stages(net, batch)):
        h = net.module[: 2 * k](batch.inputs)
        assert torch.equal(stage.sees(batch, 0).inputs, h) and stage.sees(batch, 0).targets is batch.targets
        back = staged(net, k, batch, "unsupervised").sees(batch, 0)
        assert torch.equal(back.inputs, h) and torch.equal(back.targets, h)


def test_the_model_is_itself_afterwards():
    net, batch = sigmoid(), classes()
    module, names = net.module, [name for name, _ in net.module.named_parameters()]
    for stage in stages(net, batch, "denoising"):
        for _ in descend(stage.network, tw.sgd, stage.batches([batch] * 2), lr=0.1):
            pass
    assert net.module is module and [name for name, _ in module.named_parameters()] == names
    views = net.views(net.theta).values()
    assert all(p.data_ptr() == view.data_ptr() for p, view in zip(module.parameters(), views, strict=True))
    (step,) = descend(net, tw.sgd, [batch], lr=0.1)  # fine-tuning moves all of it
    assert all(g.any() for g in net.views(step.g).values())


def test_stages_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    stage_of = {seed: staged(sigmoid(), 0, classes(), "supervised", seed=seed) for seed in (1, 2)}
    again = staged(sigmoid(), 0, classes(), "supervised", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(stage_of[1].network.theta, again.network.theta)
    assert not torch.equal(stage_of[1].network.theta, stage_of[2].network.theta)


def test_running_averages_of_the_blocks_are_kept_and_those_below_stay():
    net = network(
        linear(5, 4), lambda: nn.BatchNorm1d(4), nn.ReLU, linear(4, 3), lambda: nn.BatchNorm1d(3), linear(3, 2)
    )
    batch, seen = classes(), []
    for stage in stages(net, batch, "unsupervised"):
        if seen:  # what those below answer in use, by their running averages
            below = Network(net.module[:3], F.mse_loss).outputs(batch.inputs)
            assert torch.equal(stage.sees(batch, 0).inputs, below)
        for _ in descend(stage.network, tw.adam, stage.batches([batch] * 5), lr=0.01):
            pass
        stage.keep()
        seen.append([net.module[i].num_batches_tracked.item() for i in (1, 4)])
    assert seen == [[5, 0], [5, 5]] and net.module.training


# Blocks


def test_blocks_begin_at_weights():
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.1), nn.Linear(3, 2), nn.Softplus()
    )
    assert [[type(part).__name__ for part in block] for block in in_blocks(module)] == [
        ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Dropout"], ["Linear", "Softplus"],
    ]  # fmt: skip


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.images = nn.Conv2d(1, 4, 3, stride=2)
        self.more = nn.Conv2d(4, 6, 3)
        self.classes = nn.Linear(6, 2)

    def forward(self, x):
        return self.classes(F.relu(self.more(F.relu(self.images(x)))).amax((2, 3)))


class Activated(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return F.relu(self.layer(x))


def listed(module):
    last = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), module.classes)
    return [Activated(module.images), Activated(module.more), last]


@pytest.mark.parametrize("kind", PRETRAINING)
def test_a_module_of_any_kind_is_pretrained_by_the_blocks_that_one_lists(kind):
    net = Network(Convolutional(), F.cross_entropy)
    batch = Batch(drawn(6, 1, 10, 10).float(), torch.arange(6) % 2)
    losses = []
    for stage in stages(net, batch, kind, blocks=listed):
        steps = descend(stage.network, tw.adam, stage.batches([batch] * 40), lr=0.02)
        losses.append([step.loss for step in steps])
        assert losses[-1][-1] < losses[-1][0]
    assert len(losses) == 2
    with pytest.raises(ProblemError, match="do not answer as the model does"):
        staged(net, 0, batch, kind, blocks=lambda module: listed(module)[:2])
    with pytest.raises(ProblemError, match="block 2 does not take what block 1 gives"):
        staged(net, 0, batch, kind, blocks=lambda module: listed(module)[:1] * 2)


class Twice(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 3), nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("module", "kind", "said"),
    [
        (Convolutional(), "supervised", "the model is a Convolutional, whose blocks cannot be seen"),
        (nn.Sequential(nn.Linear(5, 2)), "supervised", "of the model's 1 blocks none below the last"),
        (nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), "greedy", "no pretraining is called 'greedy': there are sup"),
        (
            nn.Sequential(Twice(), nn.Linear(3, 2)),
            Autoencoder(top=Tied),
            "needs a block with one nn.Linear, this one is",
        ),
    ],
)
def test_what_cannot_be_pretrained_is_refused(module, kind, said):
    with pytest.raises(ProblemError, match=said):
        list(stages(Network(module, F.cross_entropy), Batch(torch.ones(4, 5), torch.zeros(4).long()), kind))


def test_whole_numbers_cannot_be_given_back():
    net = Network(nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 2)), F.cross_entropy)
    batch = Batch(torch.arange(6).reshape(3, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(ProblemError, match=r"block 1 takes torch.int64, which cannot be given back"):
        staged(net, 0, batch, "unsupervised")
    assert staged(net, 0, batch, "supervised").of == 2


# Spoilt inputs


def test_masking_leaves_out_its_share_and_another_one_at_each_step():
    h = torch.ones(50, 40)
    spoilt = [masking(0.25)(h, t, 1) for t in range(2)]
    assert [float((s == 0).float().mean()) for s in spoilt] == pytest.approx([0.25, 0.25], abs=0.03)
    assert not torch.equal(*spoilt) and torch.equal(spoilt[1], masking(0.25)(h, 1, 1))


def test_gaussian_noise_is_normal():
    noise = gaussian(2.0)(torch.zeros(20_000, dtype=torch.float64), 3, 1) / 2
    moments = [float(noise.pow(k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.2)


def test_a_denoising_autoencoder_of_lone_numbers_shrinks_them_as_ridge_regression_does():
    """Given x + e it learns E[x | x + e] = x var(x) / (var(x) + var(e)), for x of mean 0."""
    x = drawn(4000, 1)
    net, batch = network(linear(1, 1), linear(1, 1)), Batch(x, x)
    stage = staged(net, 0, batch, Autoencoder(gaussian(1.0)))
    seen = [stage.sees(batch, t) for t in range(20)]
    whole = Batch(torch.cat([s.inputs for s in seen]), torch.cat([s.targets for s in seen]))
    for _ in descend(stage.network, tw.bfgs, [whole] * 30):
        pass
    slope = stage.network.outputs(torch.ones(1, 1).double()) - stage.network.outputs(torch.zeros(1, 1).double())
    assert float(slope) == pytest.approx(float(x.var() / (x.var() + 1)), abs=0.01)
