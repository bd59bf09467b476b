"""A trained model in a folder, and what it says of new examples."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from thalweg.core.errors import ProblemError, StorageError
from thalweg.core.network import Network
from thalweg.learning.risk import CHUNK
from thalweg.training.checkpoint import packed, write
from thalweg.training.load import load
from thalweg.training.problem import Problem
from thalweg.training.read import read_table
from thalweg.training.recipe import Recipe
from thalweg.training.tables import decode, rebuilt, transform

MODEL, RECIPE, PROBLEM, MANIFEST = "model.safetensors", "recipe.toml", "problem.json", "manifest.json"


def save_model(folder: Path, problem: Problem, network: Network, recipe: Recipe) -> None:
    """Writes a trained model and all that `predict` needs: weights, recipe, description; then a manifest of SHA-256s.

    `model.safetensors` holds the module's state_dict under its own names: plain PyTorch can load it too.
    """
    inputs, targets = problem.train.take(torch.arange(1))
    described = {
        "name": problem.name,
        "source": problem.source,
        "fingerprint": problem.fingerprint(),
        "loss": getattr(problem.loss, "__name__", type(problem.loss).__name__),
        "metric": {"name": problem.metric.name, "higher_is_better": problem.metric.higher_is_better},
        "inputs": {"shape": list(inputs.shape[1:]), "dtype": str(inputs.dtype).removeprefix("torch.")},
        "targets": {"shape": list(targets.shape[1:]), "dtype": str(targets.dtype).removeprefix("torch.")},
        "about": problem.about,
        "preprocessing": problem.preprocessing,
    }
    files = {
        MODEL: packed(network.module.state_dict()),
        RECIPE: recipe.text().encode(),
        PROBLEM: json.dumps(described, indent=1).encode(),
    }
    for name, content in files.items():
        write(folder / name, content)
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def load_weights(folder: Path, module: nn.Module) -> None:
    """Puts a folder's weights into a module; raises StorageError where they are damaged or another model's."""
    try:
        weights = safetensors.torch.load(_verified(folder, MODEL))
        module.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"the weights in {folder} are not this model's, has its code changed since? {reason}"
        ) from error


def description(folder: Path | str) -> dict[str, Any]:
    """What a folder says of its problem. Raises StorageError where there is no finished model."""
    described: dict[str, Any] = json.loads(_verified(Path(folder), PROBLEM))
    return described


def predict(folder: Path | str, given: Any) -> pl.DataFrame | Tensor:
    """What the model in a folder (of `fit` or `compare`) says of new examples.

    For a model of a table, `given` is a polars table with the columns of the training table (or its path), and the
    answer a table: `prediction`, and `p(label)` for each class. For others, `given` is an array or tensor
    `(N, ...)` of inputs, and the answer the model's outputs `(N, ...)`; the model is built anew from where it came.

    Raises StorageError for a folder without a finished model, ProblemError for inputs that do not fit it.
    """
    folder = Path(folder)
    described = description(folder)
    preprocessing = described["preprocessing"]
    if preprocessing is None:
        return _outputs(_module(folder, described), _fitting(given, described))
    frame = read_table(given) if isinstance(given, str | Path) else given
    if not isinstance(frame, pl.DataFrame):
        raise ProblemError(
            f"a {type(given).__name__} was given: this model takes a table, a polars DataFrame or its path"
        )
    return decode(preprocessing, _outputs(_module(folder, described), transform(preprocessing, frame)))


def predict_file(folder: Path | str, path: Path | str) -> pl.DataFrame | Tensor:
    """As `predict`, of a file: a table for a model of a table; for others .npy, or a .csv of numbers, a row an example.

    The answer is a table where each example has at most one row of outputs: for a classifier `prediction` and
    `p(class)`, else `output` (or `output 0`, `output 1`, ...).
    """
    described = description(folder)
    if described["preprocessing"] is not None:
        return predict(folder, Path(path))
    outputs = predict(folder, _array(Path(path), described))
    assert isinstance(outputs, Tensor)
    return _tabled(outputs, described) if outputs.dim() <= 2 else outputs


def _verified(folder: Path, name: str) -> bytes:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        what = "is no folder" if not folder.is_dir() else "holds no finished model"
        raise StorageError(
            f"{folder} {what}: train one with thalweg fit ... --out {shlex.quote(str(folder))}"
        ) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder / MANIFEST} is damaged: type the command that trained it again") from error
    if hashlib.sha256(content).hexdigest() != manifest.get(name):
        raise StorageError(f"{folder / name} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return content


def _module(folder: Path, described: dict[str, Any]) -> nn.Module:
    """The module with its weights: built from the preprocessing of a table, or from where its problem came."""
    if described["preprocessing"] is not None:
        module: nn.Module = rebuilt(described["preprocessing"])
    elif described["source"] is None:
        raise StorageError(
            f"{folder} does not say where its model came from (it was trained from Python): build the module there and "
            f"load {folder / MODEL} with safetensors.torch.load_model"
        )
    else:
        module = load(shlex.split(described["source"])[0]).network(seed=0).module
    load_weights(folder, module)
    return module.eval()


@torch.inference_mode()
def _outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    try:
        return torch.cat([module(part) for part in torch.split(inputs, CHUNK)]).clone()
    except (RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ProblemError(f"the model does not take these inputs {tuple(inputs.shape)}: {reason}") from error


def _fitting(given: Any, described: dict[str, Any]) -> Tensor:
    """The inputs as the model takes them: shape, dtype, finite."""
    shape, dtype = described["inputs"]["shape"], getattr(torch, described["inputs"]["dtype"])
    values = given if isinstance(given, Tensor) else np.asarray(given)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biuf":
        raise ProblemError(f"the inputs are {values.dtype} values: give numbers")
    inputs = torch.as_tensor(values)
    if inputs.dim() == 0 or list(inputs.shape[1:]) != shape:
        raise ProblemError(f"inputs {tuple(inputs.shape)} were given: the model takes {('N', *shape)}".replace("'", ""))
    if len(inputs) == 0:
        raise ProblemError("there are no examples to predict: give at least one")
    if inputs.is_floating_point() and not torch.isfinite(inputs).all():
        raise ProblemError("the inputs hold NaN or infinity: fill them in, or drop their rows")
    if not dtype.is_floating_point and not torch.equal(inputs, inputs.to(dtype)):
        raise ProblemError(f"the inputs hold fractions: the model takes whole numbers ({described['inputs']['dtype']})")
    return inputs.to(dtype)


def _array(path: Path, described: dict[str, Any]) -> np.ndarray:
    """The numbers of a .npy, or of a .csv with or without a header: (N, ...)."""
    if not path.is_file():
        raise ProblemError(f"there is no file {path}")
    shape = described["inputs"]["shape"]
    if path.suffix.lower() == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise ProblemError(f"{path} cannot be read as .npy: {str(error).splitlines()[0]}") from error
    if path.suffix.lower() != ".csv":
        raise ProblemError(f"{path} ends in '{path.suffix}': this model reads .npy, or .csv of numbers")
    rows = _rows(path)
    if rows.shape[1] != math.prod(shape):
        raise ProblemError(f"{path} has {rows.shape[1]} columns: the model takes {math.prod(shape)} numbers an example")
    return rows.reshape(-1, *shape)


def _rows(path: Path) -> np.ndarray:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if lines and not _numeric(lines[0]):
        lines = lines[1:]  # a header
    if not lines:
        raise ProblemError(f"{path} is empty: give a row of numbers for each example")
    try:
        return np.loadtxt(lines, delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise ProblemError(f"{path} is not a table of numbers: {str(error).splitlines()[0]}") from error


def _numeric(line: str) -> bool:
    try:
        return bool([float(word) for word in line.split(",")])
    except ValueError:
        return False


def _tabled(outputs: Tensor, described: dict[str, Any]) -> pl.DataFrame:
    labels = described["targets"]["dtype"].startswith(("int", "uint")) and outputs.dim() == 2
    if labels and described["loss"] in ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss"):
        return decode({"task": "classification", "labels": list(range(outputs.shape[1]))}, outputs)
    columns = outputs.double().reshape(len(outputs), -1).numpy().T
    names = ["output"] if len(columns) == 1 else [f"output {i}" for i in range(len(columns))]
    return pl.DataFrame(dict(zip(names, columns, strict=True)))


def write_predictions(predictions: pl.DataFrame | Tensor, out: Path | None) -> str:
    """Writes predictions as CSV to a file or stdout, or as .npy; what to tell the user."""
    if out is None:
        print(_as_table(predictions).write_csv(), end="")
        return ""
    if out.suffix.lower() == ".npy":
        array = predictions.numpy() if isinstance(predictions, Tensor) else predictions.to_numpy()
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write(out, content.getvalue())
    else:
        write(out, _as_table(predictions).write_csv().encode())
    return f"{len(predictions):,} predictions in {out}"


def _as_table(predictions: pl.DataFrame | Tensor) -> pl.DataFrame:
    if isinstance(predictions, Tensor):
        raise ProblemError(f"the outputs {tuple(predictions.shape)} are no table: write them with --out NAME.npy")
    return predictions
