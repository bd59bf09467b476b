"""TensorBoard: what a monitor saw of a loop, beside the loop's own figures."""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from thalweg import Monitor
from thalweg.diagnose.adapters.tensorboard import write

pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
pixels = pixels.float() / 16
torch.manual_seed(0)
model, loss_of = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), nn.functional.cross_entropy
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)

with tempfile.TemporaryDirectory() as folder:
    writer, written = SummaryWriter(Path(folder)), 0
    with Monitor(model, optimizer, loss=loss_of, cost=1.0) as monitor:
        for _epoch in range(4):
            for rows in torch.randperm(len(labels)).split(64):
                optimizer.zero_grad()
                loss = loss_of(model(pixels[rows]), labels[rows])
                loss.backward()
                optimizer.step()
                monitor.step(loss, (pixels[rows], labels[rows]))
            written = write(monitor, writer, after=written)
    writer.close()
    seen = EventAccumulator(folder)
    seen.Reload()
    print(f"{len(seen.Scalars('monitor/loss'))} losses, {written} steps")
