"""Doctests are collected in src too: not in what adapts to a framework that is not installed."""

from importlib.util import find_spec

missing = [name for name in ("lightning", "transformers") if find_spec(name) is None]
collect_ignore = [f"src/thalweg/diagnose/adapters/{name}.py" for name in missing]
