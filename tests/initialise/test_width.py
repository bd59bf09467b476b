"""μP: roles, factors, and what does not change with the width."""

import pytest
import torch
from torch import nn

from thalweg.core.errors import NetworkError
from thalweg.initialise.model import initialise
from thalweg.initialise.variance import he_normal, lecun_normal
from thalweg.initialise.width import groups, mup, widths


def mlp(n):
    return nn.Sequential(nn.Linear(20, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 5))


def transformer(n):
    return nn.Sequential(nn.Embedding(30, n), nn.TransformerEncoderLayer(n, 2, 4 * n, dropout=0.0), nn.Linear(n, 30))


def test_roles_and_factors_are_the_papers_table_3():
    found = {w.name: w[1:] for w in widths(mlp(64), mlp(16))}
    assert found == {
        "0.weight": ("input", 1.0, 4.0, 1.0), "0.bias": ("vector", 1.0, 4.0, 1.0),
        "2.weight": ("hidden", 1.0, 1.0, 0.25), "2.bias": ("vector", 1.0, 4.0, 1.0),
        "4.weight": ("output", 0.5, 0.25, 0.25), "4.bias": ("fixed", 1.0, 1.0, 1.0),
    }  # fmt: skip


def test_a_transformers_table_is_an_input_and_its_projections_are_hidden():
    roles = {w.name: w.role for w in widths(transformer(64), transformer(16))}
    assert roles["0.weight"] == "input" and roles["2.weight"] == "output"
    assert roles["1.self_attn.in_proj_weight"] == roles["1.linear2.weight"] == "hidden"
    assert roles["1.norm1.weight"] == "vector" and roles["2.bias"] == "fixed"


def test_at_the_base_width_nothing_changes():
    ours, plain = mlp(16), mlp(16)
    initialise(ours, mup(he_normal, ours, mlp(16)))
    initialise(plain, he_normal)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert all(w[2:] == (1.0, 1.0, 1.0) for w in widths(ours, plain))


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_steps_change_hidden_units_and_outputs_as_much_at_every_width(family):
    """The coordinate check of Yang et al.: after some steps the changes neither vanish nor grow with the width."""
    kind, lr = (torch.optim.SGD, 0.1) if family == "sgd" else (torch.optim.Adam, 0.01)
    x, y = torch.randn(64, 20, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 5

    def change(n, by_width):
        model, base, first = mlp(n), mlp(16), []
        initialise(model, mup(lecun_normal, model, base) if by_width else lecun_normal)
        found = groups(model, widths(model, base), lr, family) if by_width else model.parameters()
        optimizer = kind(found, lr=lr)
        for step in range(6):
            h = model[:3](x)
            z = model[3:](h)
            if step == 0:
                first = [h.detach(), z.detach()]
            optimizer.zero_grad()
            nn.functional.cross_entropy(z, y).backward()
            optimizer.step()
        return [
            float((now - was).square().mean().sqrt()) for now, was in zip((h.detach(), z.detach()), first, strict=True)
        ]

    narrow, wide = change(128, True), change(1024, True)
    assert all(0.8 < b / a < 1.25 for a, b in zip(narrow, wide, strict=True))
    narrow, wide = change(128, False), change(1024, False)
    assert max(max(b / a, a / b) for a, b in zip(narrow, wide, strict=True)) > 2.5


def test_groups_hold_every_trained_parameter_once():
    model = transformer(64)
    model[2].bias.requires_grad_(False)
    found = groups(model, widths(model, transformer(16)), 0.1, "sgd")
    held = [id(p) for group in found for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    torch.optim.SGD(found)


def test_another_model_is_no_base():
    with pytest.raises(NetworkError, match=r"the base model differs by .*: give the same model of another width"):
        widths(mlp(8), nn.Linear(3, 2))
