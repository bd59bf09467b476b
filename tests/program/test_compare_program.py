"""The real command, in a fresh folder: killed, gone on with, read by machines."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from thalweg.comparison.result import Study
from thalweg.comparison.study import digest

pytestmark = pytest.mark.program
COMMAND = [sys.executable, "-m", "thalweg.cli", "compare", "digits", "--trials", "6", "--algorithms", "sgd,adam"]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def run(folder, *more):
    return subprocess.run([*COMMAND, *more], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def trials_in(path):
    if not path.exists():
        return 0
    try:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:  # not a table yet
        return 0


def test_json_says_what_a_machine_needs(undisturbed):
    folder, said = undisturbed
    assert said["recommended"] in ("sgd", "adam")
    assert (folder / said["report"]).is_file()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_study_that_was_killed_goes_on_with_the_same_command_to_the_same_end(sent, undisturbed, tmp_path):
    whole, _ = undisturbed
    path = tmp_path / "runs" / "digits" / "study.db"
    for trials in (2, 8):
        process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while trials_in(path) < trials and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
        if sent == signal.SIGINT:
            assert process.returncode == 130 and "same command" in said and "Traceback" not in said
    before = trials_in(path)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert before >= 8
    ours, theirs = Study.open(path.parent), Study.open(whole / "runs" / "digits")
    assert digest(ours.trials) == digest(theirs.trials)
    assert (path.parent / "report.html").is_file()


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path):
    for arguments, words in (
        (["compare", "digitz"], "did you mean"),
        (["compare", "digits", "--budget", "2s"], "too small"),
        (["compare", "digits", "--algorithms", "adamm"], "did you mean adam"),
        (["compare", "nothing.csv", "--target", "y"], "nothing.csv"),
    ):
        command = [sys.executable, "-m", "thalweg.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert done.returncode == 2 and len(errors) == 1 and words in errors[0], done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []
