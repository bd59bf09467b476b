"""A pool of processes, one thread each, for many small runs side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

import torch

from thalweg.core.errors import ThalwegError

CAN_FORK = "fork" in multiprocessing.get_all_start_methods()


@dataclass(frozen=True)
class Failure:
    """What a task gave instead of a result: one line, the traceback, and an error of ours as it is."""

    message: str
    details: str = ""
    error: ThalwegError | None = None


class Pool:
    """Processes that share what `work` closes over: a model made of lambdas needs no pickling, nothing is copied.

    `run` hands out tasks as processes become free and yields (task, result) as they come. An exception in a task,
    or the death of its process (out of memory, a crash in native code), is that task's Failure; the others go on in
    a new process. Where the system cannot fork, tasks run here, one after the other.
    """

    def __init__(self, work: Callable[[Any], Any], workers: int) -> None:
        self.work = work
        self.workers: dict[Connection, tuple[Any, Any]] = {}  # connection -> (process, its task or None)
        if CAN_FORK:
            self._context = multiprocessing.get_context("fork")
            for _ in range(workers):
                self._start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for connection, (process, _task) in self.workers.items():
            connection.close()
            process.terminate()
        for process, _task in self.workers.values():
            process.join()
        self.workers = {}

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (task, result or Failure) for every task, in the order in which they end."""
        waiting = list(tasks)[::-1]
        if not CAN_FORK:
            yield from ((task, _attempt(self.work, task)) for task in reversed(waiting))
            return
        while waiting or any(task is not None for _, task in self.workers.values()):
            for connection, (process, task) in list(self.workers.items()):
                if task is None and waiting:
                    given = waiting.pop()
                    self.workers[connection] = (process, given)
                    connection.send(given)
            busy = [connection for connection, (_, task) in self.workers.items() if task is not None]
            for ready in wait(busy):
                yield self._collect(ready)  # type: ignore[arg-type]

    def _collect(self, connection: Connection) -> tuple[Any, Any]:
        process, task = self.workers[connection]
        try:
            result = connection.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            del self.workers[connection]
            connection.close()
            self._start()
            how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
            hint = ": out of memory?" if process.exitcode == -signal.SIGKILL else ""
            return task, Failure(f"its process died ({how}{hint})")
        self.workers[connection] = (process, None)
        return task, result

    def _start(self) -> None:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, [*self.workers, mine], self.work), daemon=True)
        process.start()
        theirs.close()
        self.workers[mine] = (process, None)


def _serve(connection: Connection, inherited: list[Connection], work: Callable[[Any], Any]) -> None:
    """A process's life: tasks until the parent closes its end, or is gone."""
    for other in inherited:  # the parent's ends, copied by the fork: open here, they would hide the parent's death
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            os._exit(0)
        result = _attempt(work, task)
        try:
            connection.send(result)
        except BrokenPipeError:
            os._exit(0)


def _attempt(work: Callable[[Any], Any], task: Any) -> Any:
    try:
        return work(task)
    except Exception as error:  # noqa: BLE001 - it crosses the process border as a value
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        ours = error if isinstance(error, ThalwegError) else None
        return Failure(f"{type(error).__name__}: {line}", traceback.format_exc(), ours)
