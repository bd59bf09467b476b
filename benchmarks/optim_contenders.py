"""What benchmarks/optim_step.py measures: models as shapes, and algorithms with their classes here and elsewhere."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

Shape = tuple[int, ...]
Settings = dict[str, Any]
FORMS: dict[str, Settings] = {"ours": {}, "flatten": {"flatten": True}, "eager": {"execution": "eager"}}
TORCHS: dict[str, Settings] = {"torch": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
PEERS = {"optimi": "torch-optimi", "pytorch_optimizer": "pytorch-optimizer", "heavyball": "heavyball"}  # by module


class Model(NamedTuple):
    """Shapes of parameters."""

    title: str
    shapes: list[Shape]


@dataclass(frozen=True)
class Algorithm:
    """A class of ours with its settings, torch's where it goes by another name, and those of others."""

    ours: str
    settings: Settings = field(default_factory=dict)
    torchs: tuple[str, Settings] | None = None
    peers: dict[str, tuple[str, Settings]] = field(default_factory=dict)
    matrices: bool = False  # it multiplies matrices: bound by arithmetic


def resnet18() -> list[Shape]:
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, _ in itertools.product((64, 128, 256, 512), range(2)):
        shapes += [(width, inputs, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
        if inputs != width:
            shapes += [(width, inputs, 1, 1), (width,), (width,)]
        inputs = width
    return [*shapes, (1000, 512), (1000,)]


DIGITS: list[Shape] = [(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)]
MODELS = {
    "digits": Model("digits MLP 64-128-128-10", DIGITS),
    "vector": Model("digits MLP as one vector", [(sum(map(prod, DIGITS)),)]),
    "many": Model("many small tensors", [shape for _ in range(200) for shape in ((64, 64), (64,))]),
    "resnet": Model("ResNet-18's shapes", resnet18()),
    "large": Model(
        "twelve blocks of a transformer",
        [shape for _ in range(12) for shape in ((2496, 832), (832, 832), (3328, 832), (832, 3328))],
    ),
}
LR = {"lr": 1e-3}
ALGORITHMS = {
    "SGD": Algorithm("SGD", LR, peers={"optimi": ("SGD", LR)}),
    "SGD, momentum": Algorithm(
        "SGD",
        {**LR, "momentum": 0.9},
        peers={"optimi": ("SGD", {**LR, "momentum": 0.9}), "heavyball": ("SGD", {})},
    ),
    "Adam": Algorithm("Adam", peers={"optimi": ("Adam", LR)}),
    "AdamW": Algorithm("AdamW", peers={"optimi": ("AdamW", LR), "heavyball": ("AdamW", {})}),
    "AMSGrad": Algorithm("AMSGrad", torchs=("Adam", {"amsgrad": True})),
    "NAdam": Algorithm("NAdam", peers={"heavyball": ("NAdam", {})}),
    "RAdam": Algorithm("RAdam", peers={"optimi": ("RAdam", LR), "pytorch_optimizer": ("RAdam", {})}),
    "Adamax": Algorithm("Adamax", peers={"pytorch_optimizer": ("AdaMax", {})}),
    "Adadelta": Algorithm("Adadelta", peers={"pytorch_optimizer": ("AdaDelta", {})}),
    "Adagrad": Algorithm("Adagrad"),
    "RMSprop": Algorithm("RMSprop", peers={"heavyball": ("RMSprop", {})}),
    "RMSprop, centred, momentum": Algorithm("RMSprop", {"centered": True, "momentum": 0.9}),
    "Rprop": Algorithm("Rprop"),
    "ASGD": Algorithm("ASGD"),
    "Adafactor": Algorithm("Adafactor", peers={"pytorch_optimizer": ("AdaFactor", {})}),
    "Lion": Algorithm("Lion", peers={"optimi": ("Lion", LR), "pytorch_optimizer": ("Lion", {})}),
    "Adan": Algorithm("Adan", peers={"optimi": ("Adan", LR), "pytorch_optimizer": ("Adan", {})}),
    "AdaBelief": Algorithm("AdaBelief", peers={"pytorch_optimizer": ("AdaBelief", {})}),
    "AdamAtan2": Algorithm("AdamAtan2"),
    "AdEMAMix": Algorithm("AdEMAMix", peers={"pytorch_optimizer": ("AdEMAMix", {}), "heavyball": ("AdEMAMix", {})}),
    "ADOPT": Algorithm("ADOPT", peers={"pytorch_optimizer": ("ADOPT", {}), "heavyball": ("ADOPT", {})}),
    "LAMB": Algorithm("LAMB", peers={"pytorch_optimizer": ("Lamb", {})}),
    "LARS": Algorithm("LARS", peers={"pytorch_optimizer": ("LARS", {})}),
    "ScheduleFreeSGD": Algorithm("ScheduleFreeSGD", peers={"pytorch_optimizer": ("ScheduleFreeSGD", {})}),
    "ScheduleFreeAdamW": Algorithm(
        "ScheduleFreeAdamW",
        peers={"pytorch_optimizer": ("ScheduleFreeAdamW", {}), "heavyball": ("SFAdamW", {})},
    ),
    "Prodigy": Algorithm("Prodigy", peers={"pytorch_optimizer": ("Prodigy", {})}),
    "DAdaptAdam": Algorithm("DAdaptAdam", peers={"pytorch_optimizer": ("DAdaptAdam", {})}),
    "DoG": Algorithm("DoG"),
    "Muon": Algorithm(
        "Muon", peers={"pytorch_optimizer": ("Muon", {"use_muon": True}), "heavyball": ("Muon", {})}, matrices=True
    ),
    "MuonAdamW": Algorithm("MuonAdamW", peers={"heavyball": ("MuonAdamW", {})}, matrices=True),
    "Shampoo": Algorithm("Shampoo", peers={"pytorch_optimizer": ("Shampoo", {})}, matrices=True),
    "SOAP": Algorithm("SOAP", peers={"pytorch_optimizer": ("SOAP", {}), "heavyball": ("SOAP", {})}, matrices=True),
    "PSGDKron": Algorithm(
        "PSGDKron", peers={"pytorch_optimizer": ("Kron", {}), "heavyball": ("PSGDKron", {})}, matrices=True
    ),
}
NOT_HERE = "SparseAdam takes sparse gradients, Sophia and SAM run the model inside of a step"
_MATRICES = [name for name, made in ALGORITHMS.items() if made.matrices]
LEFT_OUT = {  # model and algorithm, and why that is not measured
    **{("vector", name): "there is no matrix" for name in _MATRICES},
    **{("large", name): "minutes a step: see resnet" for name in _MATRICES},
    ("resnet", "SOAP"): "its first basis of 4608 columns takes minutes",
    ("resnet", "PSGDKron"): "a step with factors of 4608 columns takes 40 s",
}
