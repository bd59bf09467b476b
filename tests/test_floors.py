"""A module imports only from floors below its own, or from its own folder; there are no cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thalweg

SRC = Path(thalweg.__file__).parent
FLOORS = [
    {"core"},
    {"learning", "strategies", "initialise"},
    {"basic"},
    {"adaptive"},  # above the strategies: AdamW is Adam with one around it; RMSProp is SGD in a combinator
    {"modern", "second_order"},
    {"descend", "algorithms", "execution"},
    {"training", "optim", "arguments", "challenges"},
    {"comparison", "minimize", "diagnose"},
    {"report"},
    {"contest"},
    {"cli"},
    {"__init__"},
]
# Inside a function only the packages of an optional extra may be imported, named here; the command line may import
# anything where a command needs it, so that `thalweg --help` does not load torch.
OPTIONAL: set[str] = set()


def module_name(file):
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(SRC.rglob("*.py"))}


def imported(tree):
    """Every module that a syntax tree imports, ours without the package's name, others as they are called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside.removeprefix("thalweg.") in MODULES else node.module


def ours(name):
    names = {other.removeprefix("thalweg.") for other in imported(MODULES[name]) if other.split(".")[0] == "thalweg"}
    return {"__init__" if other == "thalweg" else other for other in names}


def floor(name):
    """The floor of a module, from 0; a new folder needs its place in FLOORS."""
    return next(number for number, folders in enumerate(FLOORS) if name.split(".")[0] in folders)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_floors_below(name):
    for other in ours(name):
        beside = other.split(".")[0] == name.split(".")[0]
        assert beside or floor(other) < floor(name), f"{name} on floor {floor(name)} imports {other} on {floor(other)}"


def test_there_are_no_cycles():
    TopologicalSorter({name: ours(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "cli"])
def test_nothing_is_imported_inside_a_function_but_optional_extras(name):
    functions = [n for n in ast.walk(MODULES[name]) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {other.split(".")[0] for function in functions for other in imported(function)}
    assert found <= OPTIONAL
