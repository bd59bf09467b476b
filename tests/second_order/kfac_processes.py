"""One of several processes that train together, each on a part of every batch: `python kfac_processes.py RANK FOLDER`.

FOLDER/RANK.pt is then where it ended, by the name of the rule.
"""

import sys

import torch
from torch import distributed, nn

from thalweg import Batch, Network
from thalweg.core.objective import Evaluations
from thalweg.second_order.ekfac import ekfac_with
from thalweg.second_order.kfac import kfac_with
from thalweg.second_order.processes import over_processes


def ended(rank: int, processes: int) -> dict[str, torch.Tensor]:
    found = {}
    for make in (kfac_with, ekfac_with):
        rule = make(average=over_processes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        network = Network(module, nn.functional.cross_entropy)
        memory, knobs = rule.start(network.theta), rule.with_defaults({"samples": 0.0, "estimate_every": 2.0})
        for t in range(8):
            generator = torch.Generator().manual_seed(t)
            x = torch.randn(12, 3, dtype=torch.float64, generator=generator)
            y = torch.randint(3, (12,), generator=generator)
            f = Evaluations(network.on(Batch(x.chunk(processes)[rank], y.chunk(processes)[rank])))
            _, g = f.value_and_gradient(network.theta)
            with torch.no_grad():
                delta, memory = rule.step({"g": over_processes(g), "theta": network.theta, "f": f}, memory, knobs)
                network.theta.add_(delta)
        found[rule.name] = network.theta
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(ended(rank, 2), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
