"""Problems on real data that travels with the dependencies, to try things on without a download."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn

from thalweg.learning.risk import accuracy, bits_per_character
from thalweg.training.problem import Problem
from thalweg.training.tables import UP_TO, chance, from_table, mlp, partition, split

CONTEXT = 16  # characters seen before the one to come
WINDOWS = {"train": 80_000, "valid": 4_000, "test": 4_000}


class Builtin(NamedTuple):
    """A problem that comes with the package: how it is made from a split's seed, and what it is in one line."""

    make: Callable[[int], Problem]
    line: str


def digits(seed: int = 0) -> Problem:
    """Handwritten digits, 8x8 pixels from 0 to 1, to be told apart (1797, from scikit-learn).

    >>> problem = digits()
    >>> len(problem.train), len(problem.valid), len(problem.test), problem.steps
    (1078, 360, 359, 1020)
    """
    pixels, labels = load_digits(return_X_y=True)
    parts = split(len(labels), seed, labels)
    train, valid, test = [
        (torch.tensor(pixels[rows] / 16, dtype=torch.float32), torch.tensor(labels[rows])) for rows in parts
    ]
    return Problem(
        partial(mlp, [64, 128, 128, 10]),
        train,
        valid,
        test,
        metric=accuracy,
        name="digits",
        epochs=30,
        chance=chance(train[1]),
        source="digits",
        about={"task": "classification", "notes": [], "split": partition(parts, seed, "stratified by digit")},
    )


def autoencoder(seed: int = 0) -> Problem:
    """The same digits through a bottleneck of 8 numbers, to be drawn again; judged by the squared error a pixel.

    Pixels are taken less their mean over the training part, so that a new network starts at about their variance.
    """
    pixels, labels = load_digits(return_X_y=True)
    parts = split(len(labels), seed, labels)
    images = [torch.tensor(pixels[rows] / 16, dtype=torch.float32) for rows in parts]
    train, valid, test = [image - images[0].mean(dim=0) for image in images]
    return Problem(
        _bottleneck,
        (train, train),
        (valid, valid),
        (test, test),
        loss=nn.functional.mse_loss,
        name="autoencoder",
        epochs=60,
        chance=chance(train),
        source="autoencoder",
        about={"task": "reconstruction", "notes": [], "split": partition(parts, seed, "stratified by digit")},
    )


def breast_cancer(seed: int = 0) -> Problem:
    """Benign or malignant, from 30 measurements of cell nuclei (569 rows, from scikit-learn)."""
    data = load_breast_cancer()
    columns = dict(zip(data.feature_names.tolist(), data.data.T, strict=True))
    return _table(columns, "diagnosis", data.target_names[data.target].tolist(), seed, "breast_cancer")


def diabetes(seed: int = 0) -> Problem:
    """The progression of diabetes after a year, from 10 measurements (442 rows, from scikit-learn)."""
    data = load_diabetes(scaled=False)
    return _table(dict(zip(data.feature_names, data.data.T, strict=True)), "progression", data.target, seed, "diabetes")


def characters(seed: int = 0) -> Problem:
    """The next character of English prose, Python's own help texts, after the 16 before it (Bengio et al., 2003).

    The text is cut into three stretches, the first 60 % for training; positions in each are drawn with the seed.
    Characters that the first does not hold are one symbol.
    """
    text = "\n\n".join(topics[title] for title in sorted(topics))
    cuts = [round(fraction * len(text)) for fraction in UP_TO]
    stretches = [text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]]
    alphabet = {character: i for i, character in enumerate(sorted(set(stretches[0])))}
    random = np.random.default_rng(seed)
    train, valid, test = [
        _windows(stretch, alphabet, n, random) for stretch, n in zip(stretches, WINDOWS.values(), strict=True)
    ]
    return Problem(
        partial(_next_character, len(alphabet) + 1),
        train,
        valid,
        test,
        metric=bits_per_character,
        name="characters",
        epochs=2,
        batch_size=64,
        chance=chance(train[1]),
        source="characters",
        about={
            "task": "language model",
            "notes": [f"the help texts of Python {platform.python_version()}: other versions have other texts"],
            "split": {"how": "contiguous stretches", "seed": seed, **WINDOWS},
        },
    )


def _table(columns: dict[str, np.ndarray], target: str, answers: object, seed: int, name: str) -> Problem:
    problem = from_table(pl.DataFrame({**columns, target: answers}), target, seed, name)
    object.__setattr__(problem, "source", name)
    return problem


def _bottleneck() -> nn.Sequential:
    encoder = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)]
    decoder = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64)]
    return nn.Sequential(*encoder, *decoder)


def _next_character(alphabet: int) -> nn.Sequential:
    embedding, hidden = 16, 128
    features = [nn.Embedding(alphabet, embedding), nn.Flatten(), nn.Linear(CONTEXT * embedding, hidden), nn.Tanh()]
    return nn.Sequential(*features, nn.Linear(hidden, alphabet))


def _windows(text: str, alphabet: dict[str, int], n: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Contexts `(n, CONTEXT)` at n places of a text, and the character `(n,)` that follows each."""
    codes = torch.tensor([alphabet.get(character, len(alphabet)) for character in text])
    starts = torch.from_numpy(random.choice(len(text) - CONTEXT, n, replace=False))
    return codes[starts[:, None] + torch.arange(CONTEXT)], codes[starts + CONTEXT]


BUILTIN = {
    "digits": Builtin(digits, "handwritten digits, 10 classes (1797 images of 8x8 pixels)"),
    "breast_cancer": Builtin(breast_cancer, "a table, 2 classes (569 rows, 30 numbers)"),
    "diabetes": Builtin(diabetes, "a table, regression (442 rows, 10 numbers)"),
    "autoencoder": Builtin(autoencoder, "digits through a bottleneck of 8 numbers (1797 images)"),
    "characters": Builtin(characters, "the next character of Python's help texts (88 000 contexts of 16 characters)"),
}
