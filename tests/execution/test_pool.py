import os
import signal
import time

import pytest

from thalweg.core.errors import StorageError
from thalweg.execution.pool import Failure, Pool


def test_every_task_comes_back_with_its_result():
    with Pool(lambda task: task * task, workers=2) as pool:
        assert dict(pool.run(range(20))) == {i: i * i for i in range(20)}
        assert dict(pool.run([3])) == {3: 9}


def test_an_exception_is_the_tasks_own_failure_and_the_others_go_on():
    def work(task):
        if task == 1:
            raise ValueError("one is not welcome")
        if task == 2:
            raise StorageError("the disk is full")
        return task

    with Pool(work, workers=2) as pool:
        results = dict(pool.run(range(4)))
    assert results[0] == 0 and results[3] == 3
    assert results[1].message == "ValueError: one is not welcome" and "work" in results[1].details
    assert isinstance(results[2].error, StorageError)


def test_a_process_that_dies_is_replaced_and_said():
    def work(task):
        if task == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with Pool(work, workers=1) as pool:
        results = dict(pool.run(range(3)))
    assert isinstance(results[0], Failure) and "signal 9: out of memory?" in results[0].message
    assert (results[1], results[2]) == (1, 2)


def test_processes_end_with_the_pool_and_with_their_parent():
    with Pool(lambda task: os.getpid(), workers=2) as pool:
        (_, pid), *_ = list(pool.run(range(4)))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        pool = Pool(lambda task: os.getpid(), workers=2)
        os.write(writer, b" ".join(str(child).encode() for _, child in pool.run(range(8))))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    orphans = {int(child) for child in os.read(reader, 4096).split()}
    deadline = time.monotonic() + 10
    while alive := [child for child in orphans if _alive(child)]:
        assert time.monotonic() < deadline, f"{alive} outlived their parent"
        time.sleep(0.02)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
