"""DistributedDataParallel: two processes, half a batch each; every process takes the same step."""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from thalweg import optim

pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def train(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    optimizer = optim.RMSprop(model.parameters(), lr=1e-3)
    for step in range(100):
        mine = torch.arange(64 * step + rank, 64 * (step + 1), 2) % len(x)  # every second one
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[mine]), y[mine]).backward()  # DDP averages the gradients
        optimizer.step()
    right = (model(x).argmax(1) == y).float().mean()
    if rank == 0:
        print(f"{right:.1%} right after 100 steps of two processes")
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(train, (folder,), nprocs=2)
