"""Your own model and data, for `thalweg compare examples/own_problem.py:wine` or from Python."""

import torch
from sklearn.datasets import load_wine
from torch import nn

import thalweg as tw


def model():
    return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))


def wine():
    """Three sorts of wine from 13 measurements: 178 examples, split into 106, 36 and 36."""
    inputs, targets = load_wine(return_X_y=True)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).numpy()
    inputs, targets = inputs[order], targets[order]
    inputs = (inputs - inputs[:106].mean(axis=0)) / inputs[:106].std(axis=0)
    train, valid, test = [(inputs[a:b], targets[a:b]) for a, b in ((0, 106), (106, 142), (142, 178))]
    return tw.Problem(model, train, valid, test, metric=tw.accuracy, name="wine", epochs=15)


if __name__ == "__main__":
    study = tw.compare(wine(), trials=2, algorithms=["sgd", "adam"], out="runs/wine")
    print(study.verdict.sentence)
    print("open", study.folder / "report.html")
