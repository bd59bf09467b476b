"""Two processes over gloo beside one, on digits: `python two_processes.py FOLDER` leaves FOLDER/found.pt.

Under "alone", "data parallel", "sharded" and "resumed" it holds the parameters at the end, for each of OPTIMIZERS.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from thalweg import optim

STEPS, HALF = 10, 5
OPTIMIZERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "AdamW": lambda params: optim.AdamW(params, lr=lambda t: 0.01 / (1 + t), weight_decay=0.1),
    "Lion": lambda params: optim.Lion(params, lr=0.001, weight_decay=0.1),
    "ScheduleFreeAdamW": lambda params: optim.ScheduleFreeAdamW(params, lr=0.01),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 33), nn.Tanh(), nn.Linear(33, 10)).double()  # 33: shards of 17 and of 16


def sharded(mesh):
    model = network()
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def train(model, optimizer, steps, mine=slice(None)):
    pixels, labels = (torch.tensor(a) for a in load_digits(return_X_y=True))
    for t in steps:
        x, y = (a[32 * t : 32 * (t + 1)][mine] for a in (pixels / 16, labels))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def end(optimizer):
    """The parameters, and after them those that an averaged rule answers with."""
    params = optimizer.param_groups[0]["params"]
    with torch.no_grad():
        found = [p.full_tensor() if isinstance(p, DTensor) else p.clone() for p in params]
        with optimizer.answer():
            return found + [p.full_tensor() if isinstance(p, DTensor) else p.clone() for p in params]


def state_of(model, optimizer):
    return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))


def alone(optimizer_of):
    model = network()
    optimizer = optimizer_of(model.parameters())
    train(model, optimizer, range(STEPS))
    return end(optimizer)


def data_parallel(optimizer_of, mine):
    model = DistributedDataParallel(network())
    optimizer = optimizer_of(model.parameters())
    train(model, optimizer, range(STEPS), mine)
    return end(optimizer)


def in_shards(optimizer_of, mine, mesh, folder):
    """The end of an undisturbed run, which leaves a checkpoint half way, and of one that goes on from that."""
    model = sharded(mesh)
    optimizer = optimizer_of(model.parameters())
    train(model, optimizer, range(HALF), mine)
    checkpoint.save(state_of(model, optimizer), checkpoint_id=folder)
    train(model, optimizer, range(HALF, STEPS), mine)

    other = sharded(mesh)
    another = optimizer_of(other.parameters())
    state = state_of(other, another)
    checkpoint.load(state, checkpoint_id=folder)
    set_state_dict(other, another, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    train(other, another, range(HALF, STEPS), mine)
    return end(optimizer), end(another)


def compare(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=180), rank=rank, world_size=2)
    mesh, mine = distributed.init_device_mesh("cpu", (2,)), slice(rank, None, 2)
    found = {"alone": {}, "data parallel": {}, "sharded": {}, "resumed": {}}
    for name, made in OPTIMIZERS.items():
        found["alone"][name], found["data parallel"][name] = alone(made), data_parallel(made, mine)
        found["sharded"][name], found["resumed"][name] = in_shards(made, mine, mesh, f"{folder}/{name}")
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(compare, (sys.argv[1],), nprocs=2)
