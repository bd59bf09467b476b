"""Does `diagnose` see what is there, and nothing else? Healthy runs, and runs with one disease planted, ten seeds each.

Specificity: the warnings that five healthy runs get; there should be none. Sensitivity: in how many of ten seeds a
planted disease is among the findings, and in how many it is the first that is named; at least 9 and 8. What a cause
explains is not counted: it is told under its cause.

    python benchmarks/diagnosis.py [--seeds 10] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import Counter
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from planted import DISEASES, HEALTHY, Planted

from thalweg.diagnose.diagnose import diagnose


class Row(NamedTuple):
    """What was said of one planted run: the names of its alarms in order, for each seed."""

    name: str
    planted: Planted
    said: list[list[str]]

    @property
    def found(self) -> int:
        """Of how many seeds it is among the alarms."""
        return sum(bool(set(names) & set(self.planted.names)) for names in self.said)

    @property
    def first(self) -> int:
        """Of how many seeds it is the first of them."""
        return sum(names[:1] != [] and names[0] in self.planted.names for names in self.said)

    @property
    def beside(self) -> str:
        """Other alarms, and how often."""
        others = Counter(name for names in self.said for name in set(names) - set(self.planted.names))
        return ", ".join(f"{name} ({count})" for name, count in others.most_common()) or "–"


def row(name: str, planted: Planted, seeds: range) -> Row:
    said = []
    for seed in seeds:
        problem, recipe = planted.make(seed)
        found = diagnose(problem, recipe, steps=recipe.steps, seed=seed)
        said.append([cause.finding.name for cause in found.alarms])
    return Row(name, planted, said)


def main() -> None:
    """Runs them all and prints both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[*HEALTHY, *DISEASES])
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds, n, began = range(given.seeds), given.seeds, time.perf_counter()
    print(f"{platform.machine()}, torch {torch.__version__}; {n} seeds each\n")
    print("| healthy run | warnings | what |\n|---|---:|---|")
    for name in (name for name in HEALTHY if name in given.only):
        seen = row(name, HEALTHY[name], seeds)
        print(f"| {name} | {sum(map(len, seen.said))} | {seen.beside} |", flush=True)
    print(f"\n| planted disease | found, of {n} | named first | other findings |\n|---|---:|---:|---|")
    for name in (name for name in DISEASES if name in given.only):
        seen = row(name, DISEASES[name], seeds)
        print(f"| {name} | {seen.found} | {seen.first} | {seen.beside} |", flush=True)
    seconds = (time.perf_counter() - began) / (n * max(1, len(given.only)))
    print(f"\n{seconds:.1f} s a diagnosis, the training of its run among it")


if __name__ == "__main__":
    main()
