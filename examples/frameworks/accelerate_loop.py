"""Accelerate: prepare wraps an optimizer of thalweg; save_state and load_state keep what it remembers."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg import optim

pixels, labels = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = optim.NAdam(model.parameters(), lr=0.005)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model, optimizer, batches, schedule = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=32), schedule)


def epoch():
    for x, y in batches:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return loss.item()


epoch()
accelerator.save_state("state")
first = epoch()
accelerator.load_state("state")
print(f"loss {first:.6f} at the end of the second epoch, {epoch():.6f} from its saved start")
