"""What is saved comes back to the bit, or is found to be damaged; a write that fails leaves what was there."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thalweg.core.errors import StorageError
from thalweg.training.checkpoint import latest_checkpoint, load_state, save_checkpoint, save_state

TENSORS = {
    "theta": torch.tensor([1.5, -0.0, float("inf"), 1e-45]),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "half": torch.tensor([0.1], dtype=torch.bfloat16),
    "strided": torch.arange(6.0).view(2, 3).t(),
}
VALUES = {"t": 12, "curve": [[1, 0.1, float("inf")]], "lr": 0.1 + 0.2}


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_a_state_comes_back_to_the_bit(tmp_path):
    save_state(tmp_path / "a", TENSORS, VALUES)
    tensors, values = load_state(tmp_path / "a")
    assert values == VALUES
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        back, gone = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensors[name], tensor))
        assert back.equal(gone)


def test_the_same_state_is_the_same_file(tmp_path):
    for name in "ab":
        save_state(tmp_path / name, TENSORS, VALUES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_flipped_bit_is_found_or_harmless(tmp_path):
    path = tmp_path / "a"
    save_state(path, {"theta": torch.tensor([1.5, 2.5])}, {"t": 3})
    whole = path.read_bytes()
    found = 0
    for position in range(len(whole)):
        path.write_bytes(whole)
        flip(path, position, bit=position % 8)
        try:
            tensors, values = load_state(path)
        except StorageError:
            found += 1
        else:  # blanks that pad the header mean nothing
            assert values == {"t": 3} and tensors["theta"].tolist() == [1.5, 2.5]
    assert found > 0.9 * len(whole)


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_a_truncated_state_is_found(tmp_path, kept):
    path = tmp_path / "a"
    save_state(path, TENSORS, VALUES)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StorageError, match="damaged"):
        load_state(path)


def test_a_missing_state_is_said(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*nothing: no such file"):
        load_state(tmp_path / "nothing")


def saved(folder: Path, *steps: int) -> list[Path]:
    for t in steps:
        save_checkpoint(folder, {"theta": torch.full((3,), float(t))}, {"t": t})
    return sorted(folder.glob("*.safetensors"))


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_the_newest_checkpoint_is_used_and_the_one_before_it_kept(tmp_path):
    assert len(saved(tmp_path / "c", 1, 2, 3)) == 2
    checkpoint = latest_checkpoint(tmp_path / "c")
    assert (checkpoint.values, checkpoint.notes) == ({"t": 3}, [])


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_that_is_said(tmp_path):
    flip(saved(tmp_path / "c", 1, 2)[-1], -3)
    checkpoint = latest_checkpoint(tmp_path / "c")
    assert checkpoint.values == {"t": 1}
    assert "SHA-256" in checkpoint.notes[0] and "the checkpoint before it is used" in checkpoint.notes[0]
    assert [p.name for p in saved(tmp_path / "c", 3)] == ["00000001.safetensors", "00000002.safetensors"]
    assert latest_checkpoint(tmp_path / "c").values == {"t": 3}


def test_when_every_checkpoint_is_damaged_nothing_is_made_up(tmp_path):
    for path in saved(tmp_path / "c", 1, 2):
        path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"every checkpoint .* is damaged: remove"):
        latest_checkpoint(tmp_path / "c")


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from thalweg.core.errors import StorageError
from thalweg.training.checkpoint import save_state
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_state(Path(sys.argv[1]), {"theta": torch.zeros(5000)}, {"t": 2})
except StorageError as error:
    print(error)
"""


def test_a_write_that_fails_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    save_state(path, {"theta": torch.ones(2)}, {"t": 1})
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: file too large; nothing that was there is lost")
    assert done.stdout.count("\n") == 1
    assert load_state(path)[1] == {"t": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
