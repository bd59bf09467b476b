"""Sparse coding by block coordinate descent: each block has an exact minimum, both together do not (section 8.7.2)."""

import torch
from sklearn.datasets import load_digits

from thalweg.strategies.coordinate_descent import by_coordinates

X = torch.tensor(load_digits().data.T[:, :200])  # (64, m): each column a digit of 8 x 8 pixels
X = (X - X.mean(dim=0)) / 16
W = torch.randn(24, 64, dtype=X.dtype, generator=torch.Generator().manual_seed(0))  # (k, 64): the dictionary
H = torch.zeros(24, X.shape[1], dtype=X.dtype)  # (k, m): the code
eye = torch.eye(24, dtype=X.dtype)
DECAY = 1.0  # on the dictionary: without it the code could shrink for nothing while the dictionary grows


def cost():
    """The book's J(H, W), with weight decay on W."""
    return float(H.abs().sum() + (X - W.T @ H).square().sum() + DECAY * W.square().sum())


for turn in range(31):
    if turn % 10 == 0:
        print(f"after {turn:2d} turns: cost {cost():7.2f}, {float((H == 0).double().mean()):.0%} of the code is zero")
    H = by_coordinates(2 * W @ W.T, 2 * W @ X, H, l1=1.0, sweeps=20)  # a lasso for each digit
    W = torch.linalg.solve(H @ H.T + DECAY * eye, H @ X.T)  # least squares
