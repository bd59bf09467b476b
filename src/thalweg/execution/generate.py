"""The program of one loop that an elementwise rule is, derived from the rule's own syntax tree.

What holds one number for each parameter (what the rule sees, and its vector memory) is *varying*; all else is
*invariant*: knobs, scalar memory, numbers. Statements with nothing varying run once, ahead of the loop, in float64;
so do the largest invariant parts of the others, cast there to the vector's precision. Without that the loop
would work in float64, six times slower. To divide by an invariant is to multiply by its reciprocal.

In the program `a_m` is the array of `m`, `e_m` one number of it, `s_t` a scalar, `c_0` a constant of the loop, `w_0`
an operand that is needed twice: the prefixes keep a rule's own names from meeting ours.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import torch

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Rule, maximum, minimum, sign, sqrt, where

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.USub: "-",
    ast.UAdd: "+",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
VOCABULARY = {sqrt: 1, abs: 1, sign: 1, where: 3, maximum: 2, minimum: 2}  # and how many operands each takes
SPOKEN = "+ - * / **, comparisons, sqrt, abs, sign, where, maximum, minimum"
LARGEST_LITERAL_EXPONENT = 8


def kernel_source(rule: Rule, dtype: torch.dtype) -> str:
    """The program text of `kernel` for vectors of `dtype`: float32 or float64.

    Its arguments are the arrays that the rule sees, its vector memory, the step Δθ to write, then the scalar memory
    and the knobs, each in the order of the signature; it returns the new scalar memory. Raises AlgorithmError for a
    rule that is not elementwise or uses more than the vocabulary, naming the construct.

    >>> from thalweg import sgd
    >>> print(kernel_source(sgd, torch.float32))
    from math import inf, nan, sqrt
    from numpy import float32 as real
    <BLANKLINE>
    <BLANKLINE>
    def kernel(a_g, a_delta, s_lr):
        c_0 = real((-s_lr))
        for i in range(a_delta.size):
            e_g = a_g[i]
            a_delta[i] = (c_0 * e_g)
        return ()
    <BLANKLINE>
    """
    return _Program(rule).text(str(dtype).removeprefix("torch."))


def vector_memory(rule: Rule) -> list[str]:
    """The names of what the rule remembers for each parameter."""
    return [name for name, start in rule.remembers.items() if not start.scalar]


def scalar_memory(rule: Rule) -> list[str]:
    """The names of the single numbers that the rule remembers."""
    return [name for name, start in rule.remembers.items() if start.scalar]


class _Program:
    """The lines of a kernel while its rule is read, statement by statement."""

    def __init__(self, rule: Rule) -> None:
        if "f" in rule.sees:
            raise AlgorithmError(f"{rule.name} sees f, the objective: it is not elementwise and has no kernel")
        self.rule = rule
        self.varying = {*rule.sees, *vector_memory(rule)}
        self.invariant = {*scalar_memory(rule), *rule.knobs}
        self.truths: set[str] = set()  # names that hold the outcome of a comparison
        self.before: list[str] = []  # the lines ahead of the loop
        self.inside: list[str] = []  # the lines of the loop
        self.constants: dict[str, str] = {}  # a line's invariant parts and the names they have in the loop
        self.returned: list[str] = []
        if rule.source is None:
            raise AlgorithmError(f"{rule.name} has no kernel: it was not made by @rule")
        self.outer = _outer_names(rule.source)
        *statements, last = _syntax_tree(rule.name, rule.source).body
        for statement in statements:
            self.statement(statement)
        self.finish(last)

    def text(self, real: str) -> str:
        """The whole program, for arrays of the type `real`."""
        arrays = [f"a_{name}" for name in (*self.rule.sees, *vector_memory(self.rule), "delta")]
        scalars = [f"s_{name}" for name in (*scalar_memory(self.rule), *self.rule.knobs)]
        loads = [f"e_{name[2:]} = {name}[i]" for name in arrays[:-1]]
        lines = [
            "from math import inf, nan, sqrt",
            f"from numpy import {real} as real",
            "",
            "",
            f"def kernel({', '.join(arrays + scalars)}):",
            *(f"    {line}" for line in self.before),
            "    for i in range(a_delta.size):",
            *(f"        {line}" for line in loads + self.inside),
            f"    return ({''.join(f'{name}, ' for name in self.returned).rstrip()})",
        ]
        return "\n".join(lines) + "\n"

    def statement(self, node: ast.stmt) -> None:
        self.constants.clear()  # a name in them may mean something else from here on
        match node:
            case ast.Expr(ast.Constant(str())):
                pass  # the docstring
            case ast.Assign([ast.Name(name)], value):
                self.assign(name, value)
            case _:
                raise self.refusal(node, "only plain assignments, then one return")

    def assign(self, name: str, value: ast.expr) -> None:
        varies = self.varies(value)
        code = self.code(value, varies)
        is_truth = self.is_truth(value)
        (self.inside if varies else self.before).append(f"{'e' if varies else 's'}_{name} = {code}")
        for names, member in ((self.varying, varies), (self.invariant, not varies), (self.truths, is_truth)):
            (names.add if member else names.discard)(name)

    def finish(self, node: ast.stmt) -> None:
        """The return: every number is computed before the first is written."""
        match node:
            case ast.Return(ast.Tuple(parts)):
                pass
            case ast.Return(ast.expr() as value):
                parts = [value]
            case _:
                raise self.refusal(node, "only plain assignments, then one return")
        self.constants.clear()
        expected = ["delta", *self.rule.remembers]
        if len(parts) != len(expected):
            raise AlgorithmError(f"{self.rule.name} returns {len(parts)} values: expected {', '.join(expected)}")
        writes = []
        for name, part in zip(expected, parts, strict=True):
            if name not in scalar_memory(self.rule):
                writes.append(f"a_{name}[i] = {self.number(part, True)}")
            elif self.varies(part):
                raise AlgorithmError(f"{self.rule.name} returns a vector for '{name}', which starts as one number")
            else:
                self.returned.append(f"r_{name}")
                self.before.append(f"r_{name} = {self.number(part, False)}")
        self.inside.extend(writes)

    def varies(self, node: ast.expr) -> bool:
        return any(isinstance(part, ast.Name) and part.id in self.varying for part in ast.walk(node))

    def is_truth(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Compare) or (isinstance(node, ast.Name) and node.id in self.truths)

    def number(self, node: ast.expr, in_loop: bool) -> str:
        """The code of an expression as a number: a comparison counts 1 or 0."""
        code = self.code(node, in_loop)
        if not self.is_truth(node):
            return code
        one, zero = (self.constant("1.0"), self.constant("0.0")) if in_loop else ("1.0", "0.0")
        return f"({one} if {code} else {zero})"

    def code(self, node: ast.expr, in_loop: bool) -> str:
        """The code of an expression, in the loop or ahead of it."""
        if in_loop and not self.varies(node):
            code = self.code(node, False)
            return self.constant(code, is_truth=self.is_truth(node))
        match node:
            case ast.Constant(int() | float() as value) if not isinstance(value, bool):
                return repr(float(value))
            case ast.Name(name):
                return self.name(name, node)
            case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
                return f"({OPERATORS[type(op)]}{self.number(operand, in_loop)})"
            case ast.BinOp(base, ast.Pow(), exponent):
                return self.power(base, exponent, in_loop)
            case ast.BinOp(left, ast.Div(), right) if in_loop and not self.varies(right):
                return f"({self.number(left, True)} * {self.constant(f'1.0 / {self.number(right, False)}')})"
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                return f"({self.number(left, in_loop)} {OPERATORS[type(op)]} {self.number(right, in_loop)})"
            case ast.Compare(left, [op], [right]) if type(op) in OPERATORS:
                return f"({self.number(left, in_loop)} {OPERATORS[type(op)]} {self.number(right, in_loop)})"
            case ast.Call(ast.Name(name), operands, []) if self.is_word(name, len(operands)):
                return self.call(self.outer[name], operands, in_loop)
        raise self.refusal(node, SPOKEN)

    def name(self, name: str, node: ast.expr) -> str:
        if name in self.varying:
            return f"e_{name}"
        if name in self.invariant:
            return f"s_{name}"
        value = self.outer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return repr(float(value))
        raise self.refusal(node, "what it sees, remembers, or was assigned, and numbers")

    def power(self, base: ast.expr, exponent: ast.expr, in_loop: bool) -> str:
        literal = _literal(exponent)
        if isinstance(literal, int) and abs(literal) <= LARGEST_LITERAL_EXPONENT:
            return f"({self.number(base, in_loop)} ** {literal})"  # a few products, no call of pow
        if literal == 0.5:
            return f"sqrt({self.number(base, in_loop)})"
        return f"({self.number(base, in_loop)} ** {self.number(exponent, in_loop)})"

    def is_word(self, name: str, operands: int) -> bool:
        if name in self.varying | self.invariant:
            return False
        word = self.outer.get(name)
        return any(word is known and operands == expected for known, expected in VOCABULARY.items())

    def call(self, word: Any, operands: list[ast.expr], in_loop: bool) -> str:
        if word is where:
            condition, x, y = operands
            test, then = self.code(condition, in_loop), self.number(x, in_loop)
            return f"({then} if {test} else {self.number(y, in_loop)})"
        if word in (sqrt, abs):
            return f"{word.__name__}({self.number(operands[0], in_loop)})"
        values = [self.once(self.number(operand, in_loop), in_loop) for operand in operands]
        if word is sign:  # of NaN it is 0, as torch has it
            one, minus, zero = (self.constant(k) if in_loop else k for k in ("1.0", "-1.0", "0.0"))
            return f"({one} if {values[0]} > {zero} else ({minus} if {values[0]} < {zero} else {zero}))"
        a, b = values
        relation = ">" if word is maximum else "<"
        return f"({a} if ({a} {relation} {b}) | ({a} != {a}) else {b})"  # NaN from either side, as torch has it

    def constant(self, code: str, is_truth: bool = False) -> str:
        """The name that an invariant part has in the loop."""
        if code not in self.constants:
            self.constants[code] = name = f"c_{sum(line.startswith('c_') for line in self.before)}"
            self.before.append(f"{name} = {code if is_truth else f'real({code})'}")
        return self.constants[code]

    def once(self, code: str, in_loop: bool) -> str:
        """The name of an operand that is needed twice."""
        if code.isidentifier():
            return code
        name = f"w_{sum(line.startswith('w_') for line in self.before + self.inside)}"
        (self.inside if in_loop else self.before).append(f"{name} = {code}")
        return name

    def refusal(self, node: ast.AST, allowed: str) -> AlgorithmError:
        shown = ast.unparse(node).splitlines()[0]
        return AlgorithmError(f"{self.rule.name} has no kernel because of `{shown}`: a kernel allows {allowed}")


def _syntax_tree(name: str, source: Callable[..., Any]) -> ast.FunctionDef:
    try:
        text = inspect.getsource(source)
    except OSError as error:
        raise AlgorithmError(f"{name} has no kernel: its source is in no file ({error})") from error
    tree = ast.parse(textwrap.dedent(text)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise AlgorithmError(f"{name} has no kernel: write it as a function with def, not `{ast.unparse(tree)}`")
    return tree


def _outer_names(source: Callable[..., Any]) -> dict[str, Any]:
    """What the rule's function finds outside itself: the vocabulary, and numbers of its module."""
    outer = inspect.getclosurevars(source)
    return {**outer.builtins, **outer.globals, **outer.nonlocals}


def _literal(node: ast.expr) -> int | float | None:
    """The number that is written there, its minus sign included."""
    match node:
        case ast.Constant(int() | float() as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
    return None
