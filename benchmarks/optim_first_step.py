"""What the first step of an optimizer costs in a fresh process, and what a step allocates: for optim_step.py."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from math import prod

import torch
from optim_contenders import FORMS, MODELS

FIRST = """
import sys, time, torch, {module}
torch.set_num_threads(1)
p = torch.nn.Parameter(torch.ones(1000)); p.grad = torch.ones(1000)
torch.optim.SGD([p]).step()  # torch imports more, a second of it, with the first optimizer of any kind
started = time.process_time()
{module}.{name}([p]).step()
print(time.process_time() - started)
"""
# A step's peak above what is there before it. VmHWM is the peak since 5 was written into clear_refs.
PEAK = """
import torch, {module}
torch.set_num_threads(1)
params = [torch.nn.Parameter(torch.ones(shape)) for shape in {shapes}]
for p in params:
    p.grad = torch.ones_like(p)
optimizer = {module}.{name}(params, **{settings})
def memory(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))
for _ in range(2):
    optimizer.step()
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = memory("VmRSS")
optimizer.step()
print((memory("VmHWM") - before) / 1000)
"""


def measured(program: str, **environment: str) -> float:
    """What a program prints in a fresh process."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(ran.stdout)


def first_use(rounds: int) -> None:
    print("### First use\n\nCPU seconds from constructing to the end of the first step, without what torch imports;")
    print(f"median of {rounds} fresh processes.\n")
    print("| algorithm | empty kernel cache | a later process | torch |\n|---|---:|---:|---:|")
    for name in ("Adam", "NAdam", "Lion"):
        ours = FIRST.format(module="thalweg.optim", name=name)
        cold, warm, torchs = [], [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(measured(ours, XDG_CACHE_HOME=folder))
                warm.append(measured(ours, XDG_CACHE_HOME=folder))
            if hasattr(torch.optim, name):
                torchs.append(measured(FIRST.format(module="torch.optim", name=name)))
        cells = [f"{statistics.median(found):.2f}" if found else "" for found in (cold, warm, torchs)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


def memory() -> None:
    if not os.path.exists("/proc/self/clear_refs"):
        print("### Memory\n\nNot measured: it needs Linux.\n")
        return
    model = MODELS["large"]
    mib = sum(map(prod, model.shapes)) * 4 / 2**20
    print("### Memory\n\nWhat a step allocates at its peak beside parameters, gradients and memory, in MB;")
    print(f"large, its parameters are {mib * 2**20 / 1e6:.0f} MB; one fresh process each.\n")
    print("| algorithm | ours | flatten | eager | torch, foreach=False | torch, foreach=True |\n|---|" + "---:|" * 5)
    forms = [("thalweg.optim", options) for options in FORMS.values()]
    forms += [("torch.optim", {"foreach": False}), ("torch.optim", {"foreach": True})]
    for name in ("Adam", "RMSprop"):
        peaks = [
            # Freed vectors go back to the system at once: else what an earlier step left would be counted as there.
            measured(
                PEAK.format(module=module, name=name, settings=settings, shapes=model.shapes),
                MALLOC_MMAP_THRESHOLD_="65536",
            )
            for module, settings in forms
        ]
        print(f"| {name} | {' | '.join(f'{peak:,.0f}' for peak in peaks)} |", flush=True)
    print()
