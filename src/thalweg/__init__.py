from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd

__all__ = ["adam", "sgd"]
