"""A rule and a combinator of your own; descend runs them like any other (compare races those of the catalogue)."""

import torch
from torch import nn

import thalweg as tw
from thalweg.core.rule import sign, zeros


@tw.rule
def sign_descent(g, m=zeros, *, lr=0.01, momentum=0.9):
    """Signum (Bernstein et al. 2018): a step of lr in every parameter, against the sign of the velocity."""
    m = momentum * m + (1 - momentum) * g
    return -lr * sign(m), m


@tw.combinator
def centralised(inner, g, *, share=1.0):
    """The gradient less its mean, before the rule inside sees it."""
    return inner(g=g - share * g.mean())


torch.manual_seed(0)
network = tw.Network(nn.Linear(5, 1), nn.functional.mse_loss)
inputs = torch.randn(256, 5, generator=torch.Generator().manual_seed(0))
targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]])

rule = centralised(sign_descent, share=0.5)
print(rule.name, "sees", *rule.sees, "and remembers", *rule.remembers, "with knobs", rule.knobs)
lr = tw.schedules.linear_decay(0.05, steps=300)
losses = [step.loss for step in tw.descend(network, rule, [tw.Batch(inputs, targets)] * 300, lr=lr)]
print(f"the loss falls from {losses[0]:.3f} to {losses[-1]:.5f} in {len(losses)} steps")
