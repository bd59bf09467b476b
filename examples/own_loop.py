"""Train in your own loop: a schedule, clipping, and an lr that halves when learning stalls."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import thalweg as tw
from thalweg.learning.batches import Batches, examples
from thalweg.strategies.plateau import Plateau

pixels, labels = load_digits(return_X_y=True)
data = Batches(examples((pixels / 16, labels)), size=64, seed=0)


def network():
    torch.manual_seed(0)
    return tw.Network(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), nn.functional.cross_entropy)


# A knob may be a function of the step. The loop ends where the batches end.
steps = 5 * len(data)
lr = tw.schedules.warmed_up(tw.schedules.cosine(0.01, steps - 20), steps=20)
for step in tw.descend(network(), tw.clipped(tw.adam), (data[t] for t in range(steps)), lr=lr, clip_norm=1.0):
    if step.t % len(data) == 0:
        print(f"step {step.t}: loss {step.loss:.3f}, lr {step.knobs['lr']:.4f}")

# Or let what is seen decide: watch passes the stream through and lowers lr where the loss stalls.
lr = Plateau(0.5, factor=0.5, patience=10)
for step in lr.watch(tw.descend(network(), tw.momentum, (data[t] for t in range(steps)), lr=lr)):
    if step.t == steps:
        print(f"momentum ends at loss {step.loss:.3f} with lr {step.knobs['lr']:.4f}")
