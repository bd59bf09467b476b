import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session")
def curvlinops():
    """The oracle of Kronecker factors; skipped where it is not there, not where what it needs is missing."""
    if find_spec("curvlinops") is None:
        pytest.skip("curvlinops is not installed: `make test` does that")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)  # of linear_operator
        return import_module("curvlinops")
