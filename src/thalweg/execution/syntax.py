"""The source of a rule as a syntax tree: what a kernel is derived from."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Rule

# A use in one of these may be run any number of times.
REPEATING = (ast.For, ast.While, ast.comprehension, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)
DEFERRING = (ast.FunctionDef, ast.Lambda)


def syntax_tree(rule: Rule) -> ast.FunctionDef:
    """The function that declares a rule. Raises AlgorithmError where its source is in no file, or is no `def`."""
    if rule.source is None:
        raise AlgorithmError(f"{rule.name} has no kernel: it was not made by @rule or @combinator")
    try:
        text = inspect.getsource(rule.source)
    except OSError as error:
        raise AlgorithmError(f"{rule.name} has no kernel: its source is in no file ({error})") from error
    tree = ast.parse(textwrap.dedent(text)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise AlgorithmError(f"{rule.name} has no kernel: write it as a function with def, not `{ast.unparse(tree)}`")
    return tree


def runs_inner_once(rule: Rule) -> bool:
    """Whether a combinator's rule can be seen to run its inner rule exactly once in a step.

    >>> from thalweg import adamw, sgd
    >>> runs_inner_once(adamw), runs_inner_once(sgd)
    (True, False)
    """
    if rule.wraps is None:
        return False
    tree = syntax_tree(rule)
    inner = tree.args.args[0].arg
    if len(_uses(tree, inner)) != 1:
        return False
    called = any(isinstance(node, ast.Call) and _uses(node.func, inner) for node in ast.walk(tree))
    around = [node for node in ast.walk(tree) if isinstance(node, REPEATING + DEFERRING) and node is not tree]
    return called and not any(_uses(node, inner) for node in around)


def _uses(tree: ast.AST, name: str) -> list[ast.Name]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]


def outer_names(source: Callable[..., Any]) -> dict[str, Any]:
    """What a rule's function finds outside itself: the vocabulary, and numbers of its module."""
    outer = inspect.getclosurevars(source)
    return {**outer.builtins, **outer.globals, **outer.nonlocals}


def literal(node: ast.expr) -> int | float | None:
    """The number that is written there, its minus sign included."""
    match node:
        case ast.Constant(int() | float() as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
    return None
