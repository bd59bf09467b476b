import pytest
import torch
from torch import nn

from thalweg import Batch, Network, descend
from thalweg.core.derivatives import gauss_newton_at
from thalweg.core.objective import Evaluations
from thalweg.second_order.blocks import cut, dense, laid_out
from thalweg.second_order.eigenbasis import (
    bases_of,
    carried,
    cut_bases,
    cut_moments,
    eigenvalues,
    joined_bases,
    second_moments,
    size_of_moments,
    solved,
    turned,
)
from thalweg.second_order.ekfac import ekfac, ekfac_with
from thalweg.second_order.kronecker import evaluated, expand, factors, reduce
from thalweg.second_order.quadratic import by_lr
from thalweg.second_order.treatment import diagonal, refuse, scalar

F = nn.functional
DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def tokens(*shape, count=6, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def made(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().double()
        for p in module.parameters():
            nn.init.normal_(p, std=0.7)
    return module


class Pooled(nn.Module):
    """A layer over positions, then a linear one, then the mean over positions."""

    def __init__(self, first, width):
        super().__init__()
        self.first, self.last = first, nn.Linear(width, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = h.flatten(2).transpose(1, 2) if isinstance(self.first, nn.Conv2d) else h
        return self.last(h).mean(1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 3)

    def forward(self, x):
        return F.linear(torch.tanh(self.table(x)), self.table.weight).mean(1)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x):
        return self.shared(torch.tanh(self.shared(x)))


class Positioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.position, self.last = nn.Parameter(torch.zeros(3, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(x + self.position)).mean(1)


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), drawn(7, 4)),
    "shared": (lambda: Pooled(nn.Linear(4, 5), 5), drawn(7, 6, 4)),
    "twice": (Twice, drawn(7, 4)),
    "convolution": (lambda: Pooled(nn.Conv2d(2, 5, (2, 3), padding=(0, 1)), 5), drawn(7, 2, 4, 5)),
    "groups": (lambda: Pooled(nn.Conv2d(4, 6, 2, groups=2), 6), drawn(7, 4, 3, 4)),
    "embedding": (lambda: Pooled(nn.Embedding(6, 4), 4), tokens(7, 9)),
    "normalised": (lambda: Pooled(nn.LayerNorm(4), 4), drawn(7, 6, 4)),
    "wide": (lambda: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)), drawn(7, 4)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def objective(module, x, loss=F.mse_loss, y=None):
    network = Network(module, loss)
    z = network.on(Batch(x, x)).outputs(network.theta)
    return network.on(Batch(x, drawn(*z.shape, seed=9) if y is None else y))


def case(name, others=refuse, max_dim=8, sharing=expand, samples=0):
    make, x = MODELS[name]
    f = objective(made(make), x)
    found = evaluated(f, f.network.theta, others, max_dim, samples, 0, 0)
    return f, found, factors(found, sharing)


def exact(f):
    product = gauss_newton_at(f, f.network.theta)
    return torch.stack([product(e) for e in torch.eye(len(f.network.theta), dtype=DOUBLE)])


def in_basis(found, bases, whole):
    """The diagonal of a matrix (n, n) in the bases, in the shapes of the blocks."""
    n = len(whole)
    diagonals = []
    for layer, basis in zip(found.layers, bases, strict=True):
        each = torch.eye(layer.block.groups * layer.block.rows * layer.block.columns, dtype=DOUBLE)
        square = torch.zeros(len(each), dtype=DOUBLE)
        for i, e in enumerate(each):
            vector = torch.zeros(n, dtype=DOUBLE)
            matrix = e.view(layer.block.groups, layer.block.rows, layer.block.columns)
            layer.block.put(turned(basis, matrix, back=True), vector)
            square[i] = vector @ whole @ vector
        diagonals.append(square.view(layer.block.groups, layer.block.rows, layer.block.columns))
    return diagonals


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss])
@pytest.mark.parametrize("name", ["mlp", "shared", "convolution"])
@pytest.mark.parametrize("sharing", [expand, reduce])
def test_the_matrix_is_that_of_curvlinops(curvlinops, name, loss, sharing):
    make, x = MODELS[name]
    module, x = made(make), drawn(20, *x.shape[1:])  # as many examples as eigenvectors: of none is the choice free
    y = {nn.CrossEntropyLoss: tokens(20, count=3), nn.MSELoss: drawn(20, 3)}.get(loss, drawn(20, 3).sign().relu())
    theirs = curvlinops.EKFACLinearOperator(
        module, loss(), list(module.parameters()), [(x, y)], fisher_type="type-2", kfac_approx=sharing.__name__,
        separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    f = objective(module, x, loss(), y)
    n = len(f.network.theta)
    found = evaluated(f, f.network.theta, refuse, 2048, 0, 0, 0)
    bases = bases_of(factors(found, sharing))
    mine = torch.zeros(n, n, dtype=DOUBLE)
    for column, e in zip(mine.T, torch.eye(n, dtype=DOUBLE), strict=True):
        for layer, basis, moment in zip(found.layers, bases, second_moments(found, bases), strict=True):
            layer.block.put(turned(basis, moment * turned(basis, layer.block.matrix(e)), back=True), column)
    close(mine, theirs @ torch.eye(n, dtype=DOUBLE))


@every_model
def test_the_second_moments_are_the_diagonal_of_the_fisher_matrix_in_the_basis(name):
    f, found, pairs = case(name)
    bases = bases_of(pairs)
    for mine, true in zip(second_moments(found, bases), in_basis(found, bases, exact(f)), strict=True):
        close(mine, true)


@every_model
def test_they_are_at_least_as_near_to_the_fisher_matrix_as_k_fac_is(name):
    """In the norm of Frobenius, and nearer unless the layer is one for which K-FAC is exact."""
    f, found, pairs = case(name)
    bases = bases_of(pairs)
    true = in_basis(found, bases, exact(f))
    kfac, ekfac = eigenvalues(pairs, bases), second_moments(found, bases)
    for best, theirs, mine in zip(true, kfac, ekfac, strict=True):
        assert (mine - best).norm() <= (theirs - best).norm() + 1e-12
    assert sum((theirs - mine).norm() for theirs, mine in zip(kfac, ekfac, strict=True)) > 1e-6


def test_of_a_weight_that_is_embedding_and_output_layer_the_moments_of_both_are_added():
    f = objective(made(Tied), tokens(1, 1))
    found = evaluated(f, f.network.theta, refuse, 2048, 0, 0, 0)
    bases = [(None, None)]
    (moments,) = second_moments(found, bases)
    parts = []
    for use in found.layers[0].uses:
        only = found._replace(layers=[found.layers[0]._replace(uses=[use])],
                              gradients=lambda use=use: [[[g for u, g in zip(found.layers[0].uses, part[0], strict=True)
                                                           if u is use]] for part in found.gradients()])  # fmt: skip
        parts.append(second_moments(only, bases)[0])
    close(moments, parts[0] + parts[1])


@pytest.mark.parametrize("others", [diagonal, scalar])
def test_parameters_without_factors_keep_their_own_coordinates(others):
    f = objective(made(Positioned), drawn(5, 3, 4))
    found = evaluated(f, f.network.theta, others, 2048, 50, 0, 0)
    pairs = factors(found)
    bases = bases_of(pairs)
    first = next(i for i, layer in enumerate(found.layers) if not layer.uses)
    assert bases[first] == (None, None)
    close(second_moments(found, bases)[first].reshape(-1), pairs[first][0].reshape(-1))


@every_model
def test_what_is_kept_of_it_is_vectors(name):
    _, found, pairs = case(name)
    blocks = [layer.block for layer in found.layers]
    bases = bases_of(pairs)
    moments = second_moments(found, bases)
    flat = torch.cat([x.reshape(-1) for x in moments])
    assert len(flat) == size_of_moments(blocks)
    assert all(torch.equal(a, b) for a, b in zip(cut_moments(flat, blocks), moments, strict=True))
    for one, other in zip(cut_bases(joined_bases(bases, flat), blocks), bases, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@every_model
def test_damping_is_exact_in_the_basis(name):
    """(U diag(s) U' + λ)⁻¹g, U the Kronecker product of the bases, written out."""
    f, found, pairs = case(name)
    bases, g, n = bases_of(pairs), drawn(len(f.network.theta), seed=4), len(f.network.theta)
    moments = second_moments(found, bases)
    whole, place = torch.zeros(n, n, dtype=DOUBLE), torch.arange(n, dtype=DOUBLE)
    for layer, (left, right), moment in zip(found.layers, bases, moments, strict=True):
        block = layer.block
        u = dense(
            block, *(
                torch.eye(size, dtype=DOUBLE).expand(block.groups, size, size) if x is None else x
                for x, size in ((left, block.rows), (right, block.columns))
            ),
        )  # fmt: skip
        for at, v, s in zip(block.matrix(place).long().flatten(1), u, moment.flatten(1), strict=True):
            whole[at[:, None], at] = v @ torch.diag(s) @ v.T
    mine = solved([layer.block for layer in found.layers], bases, moments, g, 0.03)
    close(mine, torch.linalg.solve(whole + 0.03 * torch.eye(n, dtype=DOUBLE), g))


def stepped(rule, f, memory=None, **knobs):
    theta = f.network.theta
    f = Evaluations(f)
    _, g = f.value_and_gradient(theta)
    memory = rule.start(theta) if memory is None else memory
    return rule.step({"g": g, "theta": theta, "f": f}, memory, rule.with_defaults(knobs))


def test_the_first_step_is_the_gradient_over_the_batchs_moments():
    f, found, pairs = case("mlp", max_dim=2048)
    bases = bases_of(pairs)
    rule = ekfac_with(step=by_lr)
    delta, memory = stepped(rule, f, lr=0.1, samples=0.0, momentum=0.0)
    _, g = Evaluations(f).value_and_gradient(f.network.theta)
    lam = memory["strength"]
    blocks = [layer.block for layer in found.layers]
    close(delta, -0.1 * solved(blocks, bases, second_moments(found, bases), g, lam))
    close(cut(memory["statistics"], blocks), pairs)
    assert torch.equal(memory["layout"], laid_out(blocks))


def test_in_one_basis_the_moments_are_first_a_mean_over_the_batches():
    make, _ = MODELS["mlp"]
    network = Network(made(make), F.mse_loss)
    batches = [Batch(drawn(6, 4, seed=s), drawn(6, 3, seed=s + 50)) for s in range(3)]
    memory, knobs = None, {"lr": 0.0, "samples": 0.0, "estimate_every": 1.0, "every": 10.0, "adapt_every": 0.0}
    for batch in batches:
        _, memory = stepped(ekfac, network.on(batch), memory, **knobs)
    first = evaluated(network.on(batches[0]), network.theta, refuse, 2048, 0, 0, 0)
    blocks, bases = [layer.block for layer in first.layers], bases_of(factors(first))
    each = [second_moments(evaluated(network.on(b), network.theta, refuse, 2048, 0, 0, 0), bases) for b in batches]
    kept = memory["kept"]
    for mine, *all_of_it in zip(cut_moments(kept[-size_of_moments(blocks) :], blocks), *each, strict=True):
        close(mine, torch.stack(all_of_it).mean(0))


@every_model
def test_in_the_next_basis_the_moments_are_the_diagonal_there_of_what_was(name):
    _, found, pairs = case(name)
    old = bases_of(pairs)
    turn = [
        tuple(None if u is None else torch.linalg.qr(u + drawn(*u.shape, seed=6)).Q for u in basis) for basis in old
    ]
    moments = second_moments(found, old)
    for layer, was, now, moment in zip(found.layers, old, turn, moments, strict=True):
        size = layer.block.groups * layer.block.rows * layer.block.columns
        shape = moment.shape
        columns = [
            turned(now, turned(was, moment * turned(was, turned(now, e.view(shape), back=True)), back=True)).reshape(-1)
            for e in torch.eye(size, dtype=DOUBLE)
        ]
        close(carried(moment, was, now), torch.stack(columns).diagonal().view(shape))


def test_a_new_basis_begins_with_what_was_known_in_the_last():
    make, _ = MODELS["mlp"]
    network, memory = Network(made(make), F.mse_loss), None
    kept = []
    for t in range(3):
        batch = Batch(drawn(30, 4, seed=t), drawn(30, 3, seed=t + 50))
        _, memory = stepped(ekfac, network.on(batch), memory, lr=0.0, every=2.0, decay=0.9, adapt_every=0.0)
        kept.append(memory)
    found = evaluated(network.on(batch), network.theta, refuse, 2048, 1, 2, 0)
    blocks = [layer.block for layer in found.layers]
    size = size_of_moments(blocks)
    old, new = (
        (cut_bases(m["kept"][:-size], blocks), cut_moments(m["kept"][-size:], blocks)) for m in (kept[1], kept[2])
    )
    for now, u, was, v, batchs in zip(new[1], new[0], old[1], old[0], second_moments(found, new[0]), strict=True):
        close(now, 2 / 3 * carried(was, v, u) + batchs / 3)


def test_in_a_run_it_descends_and_float32_is_enough():
    make, _ = MODELS["convolution"]
    network = Network(made(make).float(), F.cross_entropy)
    batch = Batch(drawn(24, 2, 4, 5).float(), tokens(24, count=3))
    losses = [step.loss for step in descend(network, ekfac, [batch] * 40)]
    assert losses[-1] < 0.1 * losses[0]
