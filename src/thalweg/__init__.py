"""Thalweg: find, prove and train the best optimisation recipe for a PyTorch model."""

from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd
from thalweg.core.network import Batch, Network
from thalweg.descend import descend

__all__ = ["Batch", "Network", "adam", "descend", "sgd"]
