"""Averages of the parameters: SGD that keeps jumping about, and the mean of where it jumped (section 8.7.3)."""

import torch
from torch import nn

import thalweg as tw

torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
truth = torch.tensor([1.0, -2.0, 0.5, 3.0])


def noisy_batches(steps):
    for _ in range(steps):
        inputs = torch.randn(8, 4, generator=generator)
        noise = torch.randn(8, 1, generator=generator)
        yield tw.Batch(inputs, inputs @ truth[:, None] + noise)


for rule in (tw.sgd, tw.averaged(tw.sgd), tw.averaged_exponentially(tw.sgd, ema_decay=0.99)):
    network = tw.Network(nn.Linear(4, 1, bias=False), nn.functional.mse_loss)
    for step in tw.descend(network, rule, noisy_batches(2000), lr=0.1):
        answer = rule.answer(network.theta, step.memory)  # theta itself where nothing is averaged
    print(f"{rule.name:30s} distance to the truth {float((answer - truth).norm()):.4f}")
