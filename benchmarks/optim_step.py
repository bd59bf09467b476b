"""What one step of an optimizer costs, its gradients given: thalweg.optim, torch.optim, and three other libraries.

One process, by turns: in each round every contender takes a few steps, in a new order. The tables show the median and
the minimum over the rounds of the CPU time of a step on one thread, of its wall time on two or with `--busy`. Beside
them: ours / torch is our default against torch's, ours / best against torch's fastest form. A floor is the bytes that
must move (the gradient read, parameters and memory read and written) over the bandwidth of a large vector's copy, or of
its negation in place, by turns with the rest; the second is the stricter: a copy reads unseen what it writes to. Then
what the first step costs, with and without compiled kernels on disk, and what a step allocates.

    python benchmarks/optim_step.py [--threads 1|2] [--busy] [--models many resnet] [--algorithms Adam Lion]
        [--rounds 11] [--patience 20] [--no-peers] [--tables steps first memory]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

# Torch reads it when it is imported. How threads wait is left as users have it: that is the trap which --busy shows.
os.environ["OMP_NUM_THREADS"] = (re.findall(r"--threads[ =](\d+)", " ".join(sys.argv)) or ["1"])[-1]
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # HeavyBall's compiler would work on beside the turns of others

import torch
from optim_contenders import ALGORITHMS, FORMS, LEFT_OUT, MODELS, NOT_HERE, PEERS, TORCHS, Algorithm
from optim_first_step import first_use, memory

from thalweg import optim

CACHED = 2**21  # below so many parameters memory is not what bounds a step
COPIES, COPIED = ("copy", "in place"), 2**26  # float32: eight times a large cache
AT_LEAST, ENOUGH = 4e-3, 1.0  # seconds: of one turn, and of all turns of a contender, which has three in any case


class Contender(NamedTuple):
    """A step, and what is done before each one outside of the time."""

    step: Callable[[], Any]
    before: Callable[[], Any] | None = None


class Taken(NamedTuple):
    """Seconds of the steps of a contender, one figure a round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """Of a step, in seconds."""
        return statistics.median(self.rounds)

    def shown(self, unit: float) -> str:
        """The median, and the minimum."""
        median, least = (f"{t:,.0f}" if t >= 100 else f"{t:.3g}" for t in (self.median * unit, min(self.rounds) * unit))
        return f"{median} ({least})"


class Rows:
    """The table of one model, row by row, and what was left out of it."""

    def __init__(self, key: str, options: argparse.Namespace, clock: Callable[[], float]) -> None:
        self.key, self.options, self.clock = key, options, clock
        self.left_out: list[str] = []
        self.too_slow: set[str] = set()
        generator = torch.Generator().manual_seed(0)
        self.tensors = [torch.randn(shape, generator=generator) * 0.1 for shape in MODELS[key].shapes]
        self.grads = [torch.randn(shape, generator=generator) * 0.01 for shape in MODELS[key].shapes]
        self.n = sum(t.numel() for t in self.tensors)
        self.floors = () if options.busy or self.n < CACHED else COPIES
        self.unit = 1e6 if self.n < CACHED / 32 else 1e3  # µs or ms
        self.peers = [peer for peer in PEERS if options.peers and installed(peer)]

    def print(self) -> None:
        """The heading, the table and what is not in it."""
        model = MODELS[self.key]
        floors = [f"× floor, {kind}" for kind in self.floors]
        columns = [*FORMS, *TORCHS, *self.peers, "ours / torch", "ours / best", *floors]
        unit = "µs" if self.unit == 1e6 else "ms"
        tensors = "one tensor" if len(model.shapes) == 1 else f"{len(model.shapes)} tensors"
        print(f"### {self.key}: {model.title}, {self.n:,} parameters in {tensors}, {unit}\n")
        print(f"| algorithm | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}", flush=True)
        for name in self.options.algorithms:
            if (self.key, name) in LEFT_OUT:
                self.left_out.append(f"{name}: {LEFT_OUT[self.key, name]}")
                continue
            print(f"| {name} | {' | '.join(self.row(name))} |", flush=True)
            gc.collect()
        print("\nLeft out: " + "; ".join(dict.fromkeys(self.left_out)) + "." if self.left_out else "", end="\n\n")

    def row(self, name: str) -> list[str]:
        """The cells of one algorithm, measured now."""
        algorithm = ALGORITHMS[name]
        contenders: dict[str, Contender] = {}
        moved = 0
        for column, make in self.makers(name, algorithm):
            try:
                with limited(self.options.patience):
                    contender, optimizer = make()
            except TimeoutError:
                self.left_out.append(f"{column}'s {name}: its first step takes more than {self.options.patience:g} s")
                self.too_slow |= {column} & {"heavyball"}
                continue
            except Exception as error:  # noqa: BLE001 - a peer that does not run is a result
                self.left_out.append(f"{column}'s {name}: {type(error).__name__}, {first_sentence(error)}")
                continue
            contenders[column] = contender
            if column == "ours":
                moved = bytes_moved(optimizer)
        bound = self.floors and not algorithm.matrices
        taken = by_turns({**contenders, **(copies() if bound else {})}, self.options.rounds, self.clock)
        cells = [taken[c].shown(self.unit) if c in taken else "" for c in (*FORMS, *TORCHS, *self.peers)]
        ours, torchs = taken["ours"].median, [taken[form].median for form in TORCHS if form in taken]
        cells.append(ratio(ours / taken["torch"].median) if "torch" in taken else "")
        cells.append(ratio(ours / min(torchs)) if torchs else "")
        for kind in self.floors:
            bandwidth = 2 * COPIED * 4 / taken[kind].median if bound else 0.0
            cells.append(f"{ratio(ours * bandwidth / moved)} (at {bandwidth / 1e9:.0f} GB/s)" if bound else "")
        return cells

    def makers(self, name: str, algorithm: Algorithm) -> Iterator[tuple[str, Callable[[], tuple[Contender, Any]]]]:
        """What makes each contender and takes its first step, by column; most share their parameters."""
        tensors, grads = self.tensors, self.grads
        if name == "Muon":  # it takes nothing but matrices: kernels as such, and no vectors
            tensors, grads = ([t.flatten(1) for t in given if t.ndim > 1] for given in (tensors, grads))
        shared = parameters(tensors, grads)

        def maker(cls: Any, settings: Mapping[str, Any], given: list[Any], resets: bool = False) -> Any:
            def make() -> tuple[Contender, Any]:
                def before() -> None:
                    for p, g in zip(given, grads, strict=True):
                        p.grad = g

                before()
                of_group = {key: value for key, value in settings.items() if key == "use_muon"}
                rest = {key: value for key, value in settings.items() if key not in of_group}
                optimizer = cls([{"params": given, **of_group}], **rest)
                optimizer.step()
                return Contender(optimizer.step, before if resets else None), optimizer

            return make

        def own() -> list[torch.nn.Parameter]:
            return parameters([t.clone() for t in tensors], grads)

        for form, options in FORMS.items():
            given = own() if form == "flatten" else shared  # it moves them
            yield form, maker(getattr(optim, algorithm.ours), {**algorithm.settings, **options}, given)
        torchs, settings = algorithm.torchs or (algorithm.ours, algorithm.settings)
        for form, options in TORCHS.items():
            cls = getattr(torch.optim, torchs, None)
            if cls is not None and (not options or options.keys() <= parameters_of(cls)):
                yield form, maker(cls, {**settings, **options}, shared)
        for peer in self.peers:
            if peer in algorithm.peers and peer not in self.too_slow:
                theirs, settings = algorithm.peers[peer]
                cls = getattr(importlib.import_module(peer), theirs)
                resets = peer == "heavyball"  # it drops the gradients
                yield peer, maker(cls, settings, own() if resets else shared, resets)


def ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def parameters(tensors: list[torch.Tensor], grads: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(t) for t in tensors]
    for p, g in zip(made, grads, strict=True):
        p.grad = g
    return made


def parameters_of(cls: Any) -> set[str]:
    return set(cls.__init__.__code__.co_varnames)


def bytes_moved(optimizer: torch.optim.Optimizer) -> int:
    """The gradients read, the parameters and all that is remembered of them read and written."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    held = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return sum(3 * p.nbytes for p in params) + sum(2 * t.nbytes for t in held if t.ndim)


def copies() -> dict[str, Contender]:
    """What reads and writes each number of a large vector once."""
    if not _copied:
        _copied.extend((torch.zeros(COPIED), torch.ones(COPIED)))
    source, target = _copied
    return dict(zip(COPIES, (Contender(lambda: target.copy_(source)), Contender(source.neg_)), strict=True))


_copied: list[torch.Tensor] = []


def by_turns(contenders: Mapping[str, Contender], rounds: int, clock: Callable[[], float]) -> dict[str, Taken]:
    """The seconds of a step, of each contender, in up to so many rounds: fewer, but three, where it is slow."""

    def turn(contender: Contender, steps: int) -> float:
        spent, step = 0.0, contender.step
        for _ in range(1 if contender.before is None else steps):
            if contender.before is not None:
                contender.before()
            started = clock()
            for _ in range(steps if contender.before is None else 1):
                step()
            spent += clock() - started
        return spent / steps

    for contender in contenders.values():
        turn(contender, 1)  # the second step, and the first of a plan that is kept
    steps = {name: max(1, min(1000, int(AT_LEAST / turn(c, 1)))) for name, c in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for k in range(rounds):
        random.Random(k).shuffle(order)
        for name in order:
            if len(taken[name]) < 3 or sum(taken[name]) * steps[name] < ENOUGH:
                taken[name].append(turn(contenders[name], steps[name]))
    return {name: Taken(seconds) for name, seconds in taken.items()}


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError where the body takes longer."""

    def ring(*_: Any) -> None:
        raise TimeoutError

    before, started = signal.signal(signal.SIGALRM, ring), time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception as error:
        if time.perf_counter() - started >= seconds:  # compilers wrap what interrupts them
            raise TimeoutError from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def busy_beside(wanted: bool) -> Iterator[None]:
    """Another process that works without a pause, where it is wanted."""
    beside = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if beside is not None:
            beside.kill()
            beside.wait()


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def first_sentence(error: Exception) -> str:
    return re.split(r"\. |\n", f"{error}.")[0].strip().rstrip(".")[:160].replace("|", "/")


def machine(options: argparse.Namespace) -> str:
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next(
                (line.split(": ")[1].strip() for line in lines if line.startswith("model name")), processor
            )
    packages = ["torch", "numba", *(PEERS[peer] for peer in PEERS if options.peers and installed(peer))]
    threads = {1: "one thread", 2: "two threads"}.get(options.threads, f"{options.threads} threads")
    beside = ", another busy process beside" if options.busy else ""
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{processor}, {os.cpu_count()} cores, {threads}{beside}; Python {platform.python_version()}, {versions}"


def chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--patience", type=float, default=20, help="seconds that a first step may take")
    parser.add_argument("--busy", action="store_true", help="with another busy process beside")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    tables = ("steps", "first", "memory")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    return parser.parse_args()


def main() -> None:
    options = chosen()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the peers' own
    cpu = options.threads == 1 and not options.busy
    clock, what = (time.process_time, "CPU") if cpu else (time.perf_counter, "wall")
    if "steps" in options.tables:
        print(f"{what} time of a step, median (minimum) of up to {options.rounds} rounds; {machine(options)}.\n")
        missing = [package for peer, package in PEERS.items() if options.peers and not installed(peer)]
        print(*(f"{package} is not installed.\n" for package in missing), f"Not measured: {NOT_HERE}.\n", sep="")
        with busy_beside(options.busy):
            for key in options.models:
                Rows(key, options, clock).print()
    if "first" in options.tables:
        first_use(3)
    if "memory" in options.tables:
        memory()


if __name__ == "__main__":
    main()
