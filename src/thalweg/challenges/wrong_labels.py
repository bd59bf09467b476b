"""Wrong labels (section 8.1.3; 7.5.1): how many of them disagree with what the rest of the data says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from thalweg.challenges.finding import Finding, Severity
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, proportion

SOURCE = "Northcutt et al. 2021"
FOLDS = 5
NEIGHBOURS = 20
SURE = 0.25  # of the examples: those with the surest predictions
WRONG = 0.05  # of the labels
EVEN = 0.7  # of the error in all: where the sure ones have as much, it is no overlap of classes
MOST = 2000  # examples looked at


class Labels(NamedTuple):
    """How often labels disagree with predictions that have not seen them: where these are surest, and in all."""

    wrong: Measured
    error: Measured
    majority: float  # the error of always saying the most frequent class


def wrong_labels(classes: int, labels: Tensor, share: float, seed: int) -> Tensor:
    """Labels (n,) of which a share is another class's: a memoriser then reaches 1 - share on new ones.

    >>> y = torch.zeros(1000, dtype=torch.long)
    >>> round(float((wrong_labels(10, y, 0.2, seed=0) != y).double().mean()), 1)
    0.2
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(labels), generator=generator) < share
    return torch.where(
        chosen, (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes, labels
    )


def out_of_fold(inputs: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities (m, K) of a class by 20 nearest neighbours among other folds, and the labels (m,) they are for.

    At most 2000 examples are looked at; classes of fewer than 5 are left out.
    Raises DiagnosisError where labels are no classes, or are too few.

    >>> from sklearn.datasets import load_digits
    >>> x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    >>> probabilities, labels = out_of_fold(x, y)
    >>> round(float((probabilities.argmax(1) == labels).double().mean()), 2)
    0.96
    """
    if labels.dim() != 1 or labels.is_floating_point():
        raise DiagnosisError(
            f"targets {tuple(labels.shape)} {labels.dtype} are no classes (n,): wrong ones cannot be told"
        )
    some = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:MOST].to(labels.device)
    x, y = inputs[some].double().reshape(len(some), -1).cpu().numpy(), labels[some].cpu().numpy()
    names, counts = np.unique(y, return_counts=True)
    kept = np.isin(y, names[counts >= FOLDS])
    x, y = x[kept], y[kept]
    if len(np.unique(y)) < 2:
        raise DiagnosisError(f"{len(y)} examples of {len(np.unique(y))} classes were given: 5 of each of 2 are needed")
    y = np.unique(y, return_inverse=True)[1]
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(min(NEIGHBOURS, max(1, len(y) // 10))))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return torch.as_tensor(cross_val_predict(model, x, y, cv=folds, method="predict_proba")), torch.as_tensor(y)


def labels(probabilities: Tensor, given: Tensor) -> Labels:
    """How many labels `given: (n,)` are wrong, from `probabilities: (n, K)` that have not seen them.

    Classes that overlap make errors where a prediction is not sure, wrong labels everywhere. So labels are counted
    where the prediction is surest, in a quarter of the examples: there an error is the label's
    (the confident joint of Northcutt et al. 2021, made simple). It is a little low: neighbours are sure where, by
    chance, few of their labels are wrong.

    >>> probabilities = torch.tensor([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 30)
    >>> labels(probabilities, torch.tensor([1, 1] + [0] * 28 + [1] * 10)).wrong.value
    0.2
    """
    surest, says = probabilities.max(1)
    sure = surest.argsort(descending=True, stable=True)[: max(1, round(SURE * len(given)))]
    wrong, n = says != given, len(given)
    majority = 1 - float(given.bincount().max()) / n
    return Labels(proportion(int(wrong[sure].sum()), len(sure)), proportion(int(wrong.sum()), n), majority)


def findings(found: Labels, train_error: Measured | None = None) -> list[Finding]:
    """Whether labels are wrong; `train_error` is the share of training labels that the network does not fit.

    It is an alarm where the network fits labels that cannot be predicted, and where as many are wrong among the surest
    as among all: then it is no overlap of classes.

    >>> print(findings(Labels(proportion(90, 450), proportion(390, 1797), 0.9))[0].what)
    20 % of the labels disagree with what examples like them say
    """
    if found.wrong.low <= WRONG:
        return []
    if found.error.high >= found.majority:
        return [
            _found(found, "unclear", "ask a better model that was not trained on these labels: neighbours know nothing")
        ]
    memorised = train_error is not None and train_error.high < found.wrong.low
    even = found.wrong.value > EVEN * found.error.value
    advice = "look at the labels that disagree; smooth labels (7.5.1), stop early, do not fit the training part whole"
    return [_found(found, "warning" if memorised or even else "note", advice)]


def _found(found: Labels, severity: Severity, advice: str) -> Finding:
    return Finding(
        "label noise",
        f"{100 * found.wrong.value:.2g} % of the labels disagree with what examples like them say",
        severity, found.wrong, f"more than {WRONG:.0%} where the prediction is surest", SOURCE, "8.1.2", advice,
    )  # fmt: skip
