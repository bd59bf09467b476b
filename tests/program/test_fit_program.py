"""The real command in a fresh folder: fit, killed with signal 9, interrupted, on a full disk; then predict."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.program

COMMAND = [sys.executable, "-m", "thalweg.cli"]
FIT = ["fit", "digits", "--algorithm", "adam", "--set", "lr=0.003", "--epochs", "60"]


def thalweg(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=100, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = thalweg(*FIT, "--out", str(folder / "a"))
    assert done.returncode == 0, done.stderr
    return folder / "a"


def same(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in ("model.safetensors", "result.json"))


def begun(folder: Path) -> subprocess.Popen:
    """The command, as soon as it has saved a state."""
    before = checkpoints(folder)
    process = subprocess.Popen(
        [*COMMAND, *FIT, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and checkpoints(folder) == before and not (folder / "run.json").exists():
        time.sleep(0.01)
    return process


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*")) if folder.exists() else []


def test_killed_three_times_in_a_row_it_ends_with_the_same_bits(tmp_path, whole):
    chance = random.Random(8)
    for _ in range(3):
        process = begun(tmp_path / "a")
        time.sleep(chance.random())
        process.kill()
        process.communicate()
    done = thalweg(*FIT, "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "a", whole)


def test_interrupted_it_says_how_to_go_on_and_does(tmp_path, whole):
    process = begun(tmp_path / "a")
    assert any(line.startswith("training") for line in process.stderr)  # reads up to there: steps are being taken
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 130
    assert said.startswith("stopped at step ") and said.endswith("the same command goes on from here")
    done = thalweg(*FIT, "--out", str(tmp_path / "a"))
    assert done.returncode == 0 and "went on from the checkpoint of step" in done.stdout
    assert same(tmp_path / "a", whole)


def test_a_full_disk_is_one_line_and_once_there_is_room_it_goes_on(tmp_path, whole):
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = thalweg(
        *FIT, "--out", str(tmp_path / "a"), preexec_fn=small_disk, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    )
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith("error: cannot write ") and "Traceback" not in full.stderr
    assert not list((tmp_path / "a").rglob("*.partial"))
    assert thalweg(*FIT, "--out", str(tmp_path / "a")).returncode == 0
    assert same(tmp_path / "a", whole)


def test_from_a_table_to_predictions(tmp_path):
    rows = [f"{i},{'red' if i % 2 else 'blue'},{i % 2 * 10 + i / 10}" for i in range(80)]
    (tmp_path / "houses.csv").write_text("\n".join(["size,colour,price", *rows]) + "\n")
    done = thalweg(
        "fit",
        "houses.csv",
        "--target",
        "price",
        "--algorithm",
        "adam",
        "--epochs",
        "40",
        "--out",
        "runs/a",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metric"]["name"] == "RMSE"
    (tmp_path / "new.csv").write_text("colour,size\nred,7\nblue,8\n")
    (tmp_path / "houses.csv").unlink()
    said = thalweg("predict", "runs/a", "new.csv", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    header, red, blue = said.stdout.splitlines()
    assert header == "prediction" and abs(float(red) - 10.7) < 5 and abs(float(blue) - 0.8) < 5
    kept = thalweg("predict", "runs/a", "new.csv", "--out", "answer.csv", cwd=tmp_path)
    assert kept.stdout == "" and (tmp_path / "answer.csv").read_text() == said.stdout
