"""fully_shard: two processes hold half of the parameters each, and half of what the optimizer remembers."""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard

from thalweg import optim

pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def train(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = distributed.init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model = fully_shard(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), mesh=mesh)
    optimizer = optim.AdamW(model.parameters(), lr=0.005)
    for step in range(100):
        if step == 50:  # what a checkpoint holds is enough for another optimizer to go on with
            saved, optimizer = get_optimizer_state_dict(model, optimizer), optim.AdamW(model.parameters())
            set_optimizer_state_dict(model, optimizer, saved)
        mine = torch.arange(64 * step + rank, 64 * (step + 1), 2) % len(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[mine]), y[mine]).backward()
        optimizer.step()
    right = (model(x).argmax(1) == y).float().mean()
    if rank == 0:
        m = next(iter(optimizer.state.values()))["exp_avg"]
        print(f"{right:.1%} right; {m.to_local().numel()} of the {m.numel()} averages of the first layer are here")
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(train, (folder,), nprocs=2)
