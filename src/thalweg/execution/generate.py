"""The program of one loop that an elementwise rule is, derived from the rule's own syntax tree.

What holds one number for each parameter (what the rule sees, and its vector memory) is *varying*; all else is
*invariant*: knobs, scalar memory, numbers. Statements with nothing varying run once, ahead of the loop, in float64;
so do the largest invariant parts of the others, cast there to the vector's precision. Without that the loop
would work in float64, six times slower. To divide by an invariant is to multiply by its reciprocal.

A combinator is read into the same loop: where it calls its inner rule, the statements of that rule are written.

In the program `a_m` is the array of `m`, `e_m` one number of it, `s_t` a scalar, `c_0` a constant of the loop, `w_0`
an operand that is needed twice, `r_t` a new scalar to return. `e1_m` and `s1_t` are what the outermost rule assigns,
`e2_m` what the rule inside it does; to that one `h2_g` is handed in place of `g`, and `d_2` is its step. So no two
names meet, ours and those of the rules.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from typing import Any

import torch

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Rule, atan2, exp, log, maximum, minimum, sign, sqrt, where
from thalweg.execution.lines import Lines, Value
from thalweg.execution.syntax import literal, outer_names, runs_inner_once, syntax_tree

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
VOCABULARY = {  # and how many operands each takes
    sqrt: 1,
    abs: 1,
    exp: 1,
    log: 1,
    sign: 1,
    where: 3,
    maximum: 2,
    minimum: 2,
    atan2: 2,
}
SPOKEN = "+ - * / **, comparisons, sqrt, abs, exp, log, sign, where, maximum, minimum, atan2"
LARGEST_LITERAL_EXPONENT = 8


@cache
def kernel_source(rule: Rule, dtype: torch.dtype, onto_theta: bool = False) -> str:
    """The program text of `kernel` for tensors of `dtype`: float32 or float64.

    Its arguments are an address, the first tensor and the one after the last. At the address stand four others: of a
    table with a row of addresses for each tensor (the columns are those of `columns`), of the tensors' sizes, of the
    numbers (the scalar memory and the knobs, each in the order of the signature), and of where the new scalar memory is
    written. The step Δθ is written, or with `onto_theta` added to theta instead. Raises AlgorithmError for a rule that
    is not elementwise or uses more than the vocabulary, naming the construct.

    >>> from thalweg import sgd
    >>> print(kernel_source(sgd, torch.float32))
    from math import atan2, exp, inf, log, nan, sqrt
    from numba import carray
    from numpy import float32 as real
    from thalweg.execution.pointers import float32_at, float64_at, int64_at
    from thalweg.execution.words import float32_atan2
    <BLANKLINE>
    <BLANKLINE>
    def kernel(at, first, last):
        table, sizes, numbers, new = carray(int64_at(at), 4)
        rows, counts = carray(int64_at(table), (last, 2)), carray(int64_at(sizes), last)
        given, found = carray(float64_at(numbers), 1), carray(float64_at(new), 0)
        s_lr = given[0]
        c_0 = real((-s_lr))
        for j in range(first, last):
            size = counts[j]
            a_g = carray(float32_at(rows[j, 0]), size)
            a_delta = carray(float32_at(rows[j, 1]), size)
            for i in range(size):
                e_g = a_g[i]
                a_delta[i] = (c_0 * e_g)
    <BLANKLINE>
    """
    if "f" in rule.sees:
        raise AlgorithmError(f"{rule.name} sees f, the objective: it is not elementwise and has no kernel")
    real = str(dtype).removeprefix("torch.")
    lines = Lines(real)
    delta = _Reader(rule, {name: Value(f"e_{name}", True) for name in rule.sees}, lines).delta()
    read = [f"a_{name}" for name in (*rule.sees, *vector_memory(rule))]
    scalars = [f"s_{name}" for name in (*scalar_memory(rule), *rule.knobs)]
    target = "a_theta" if onto_theta else "a_delta"
    writes = [
        f"{target}[i] {'+=' if onto_theta else '='} {delta}",
        *(f"a_{name}[i] = {lines.new[name]}" for name in vector_memory(rule)),
    ]
    table = columns(rule, onto_theta)
    kept = scalar_memory(rule)
    program = [
        "from math import atan2, exp, inf, log, nan, sqrt",
        "from numba import carray",
        f"from numpy import {real} as real",
        "from thalweg.execution.pointers import float32_at, float64_at, int64_at",
        f"from thalweg.execution.words import {real}_atan2",
        "",
        "",
        "def kernel(at, first, last):",
        "    table, sizes, numbers, new = carray(int64_at(at), 4)",
        f"    rows, counts = carray(int64_at(table), (last, {len(table)})), carray(int64_at(sizes), last)",
        f"    given, found = carray(float64_at(numbers), {len(scalars)}), carray(float64_at(new), {len(kept)})",
        *(f"    {name} = given[{k}]" for k, name in enumerate(scalars)),
        *(f"    {line}" for line in lines.before),
        "    for j in range(first, last):",
        "        size = counts[j]",
        *(f"        a_{name} = carray({real}_at(rows[j, {k}]), size)" for k, name in enumerate(table)),
        "        for i in range(size):",
        *(f"            e_{name[2:]} = {name}[i]" for name in read),
        *(f"            {line}" for line in lines.inside + writes),
        *(f"    found[{k}] = r_{name}" for k, name in enumerate(kept)),
    ]
    return "\n".join(program) + "\n"


def columns(rule: Rule, onto_theta: bool) -> list[str]:
    """What a kernel's table holds addresses of: what the rule sees, its vector memory, and what is written to.

    >>> from thalweg import adam
    >>> columns(adam, onto_theta=True), columns(adam, onto_theta=False)
    (['g', 'm', 'v', 'theta'], ['g', 'm', 'v', 'delta'])
    """
    return list(dict.fromkeys([*rule.sees, *vector_memory(rule), "theta" if onto_theta else "delta"]))


def vector_memory(rule: Rule) -> list[str]:
    """The names of what the rule remembers for each parameter."""
    return [name for name, start in rule.remembers.items() if not start.scalar]


def scalar_memory(rule: Rule) -> list[str]:
    """The names of the single numbers that the rule remembers."""
    return [name for name, start in rule.remembers.items() if start.scalar]


class _Reader:
    """Writes the lines of one rule, statement by statement; for the rule inside a combinator, another one does."""

    def __init__(self, rule: Rule, seen: dict[str, Value], lines: Lines, depth: int = 1) -> None:
        self.rule, self.seen, self.lines, self.depth = rule, seen, lines, depth
        self.tree = syntax_tree(rule)
        if rule.wraps is not None and not runs_inner_once(rule):
            raise AlgorithmError(f"{rule.name} has no kernel: it does not run its inner rule exactly once in a step")
        assert rule.source is not None  # or there would be no tree
        self.outer = outer_names(rule.source)
        parameters = list(inspect.signature(rule.source).parameters)
        self.inner = parameters.pop(0) if rule.wraps else None
        self.returns = ["delta", *(name for name in parameters if name in rule.remembers)]
        known = {
            **seen,
            **{name: Value(f"e_{name}", True) for name in vector_memory(rule)},
            **{name: Value(f"s_{name}", False) for name in (*scalar_memory(rule), *rule.knobs)},
        }
        self.names = {name: known[name] for name in parameters if name in known}

    def delta(self) -> str:
        """The code of the step Δθ; the lines that it needs are written, and the new memory."""
        *statements, last = self.tree.body
        for statement in statements:
            self.statement(statement)
        return self.finish(last)

    def statement(self, node: ast.stmt) -> None:
        self.lines.constants.clear()  # a name in them may mean something else from here on
        match node:
            case ast.Expr(ast.Constant(str())):
                pass  # the docstring
            case ast.Assign([ast.Name(name)], value):
                self.assign(name, value)
            case _:
                raise self.refusal(node, "only plain assignments, then one return")

    def assign(self, name: str, value: ast.expr) -> None:
        varies, is_truth = self.varies(value), self.is_truth(value)
        code = self.code(value, varies)
        self.names[name] = Value(
            self.lines.add(f"{'e' if varies else 's'}{self.depth}_{name}", code, varies), varies, is_truth
        )

    def finish(self, node: ast.stmt) -> str:
        """The return: memory is written after all numbers are computed."""
        match node:
            case ast.Return(ast.Tuple(parts)):
                pass
            case ast.Return(ast.expr() as value):
                parts = [value]
            case _:
                raise self.refusal(node, "only plain assignments, then one return")
        self.lines.constants.clear()
        if len(parts) != len(self.returns):
            expected = ", ".join(self.returns)
            raise AlgorithmError(f"{self.rule.name} returns {len(parts)} values: expected {expected}")
        delta = ""
        for name, part in zip(self.returns, parts, strict=True):
            if name == "delta":
                delta = self.number(part, True)
            elif name not in scalar_memory(self.rule):
                self.lines.new[name] = self.number(part, True)
            elif self.varies(part):
                raise AlgorithmError(f"{self.rule.name} returns a vector for '{name}', which starts as one number")
            else:
                self.lines.add(f"r_{name}", self.number(part, False), False)
        return delta

    def run_inner(self, replaced: list[ast.keyword]) -> str:
        """The name of the inner rule's step, once its lines are written."""
        assert self.rule.wraps is not None
        seen = dict(self.seen)
        for keyword in replaced:
            varies = self.varies(keyword.value)
            code = self.number(keyword.value, varies)
            seen[str(keyword.arg)] = Value(self.lines.add(f"h{self.depth + 1}_{keyword.arg}", code, varies), varies)
        delta = _Reader(self.rule.wraps[1], seen, self.lines, self.depth + 1).delta()
        return self.lines.add(f"d_{self.depth + 1}", delta, True)

    def varies(self, node: ast.expr) -> bool:
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        return self.inner in names or any(self.names[name].varies for name in names & self.names.keys())

    def is_truth(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Compare) or (
            isinstance(node, ast.Name) and node.id in self.names and self.names[node.id].is_truth
        )

    def number(self, node: ast.expr, in_loop: bool) -> str:
        """The code of an expression as a number: a comparison counts 1 or 0."""
        code = self.code(node, in_loop)
        if not self.is_truth(node):
            return code
        one, zero = (self.lines.constant("1.0"), self.lines.constant("0.0")) if in_loop else ("1.0", "0.0")
        return f"({one} if {code} else {zero})"

    def code(self, node: ast.expr, in_loop: bool) -> str:
        """The code of an expression, in the loop or ahead of it."""
        if in_loop and not self.varies(node):
            code = self.code(node, False)
            return self.lines.constant(code, is_truth=self.is_truth(node))
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
                return f"({self.number(left, True)} * {self.lines.constant(f'1.0 / {self.number(right, False)}')})"
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                return f"({self.number(left, in_loop)} {OPERATORS[type(op)]} {self.number(right, in_loop)})"
            case ast.Compare(left, [op], [right]) if type(op) in OPERATORS:
                return f"({self.number(left, in_loop)} {OPERATORS[type(op)]} {self.number(right, in_loop)})"
            case ast.Call(ast.Name(name), operands, []) if self.is_word(name, len(operands)):
                return self.call(self.outer[name], operands, in_loop)
            case ast.Call(ast.Name(self.inner), [], replaced) if all(keyword.arg for keyword in replaced):
                return self.run_inner(replaced)
        raise self.refusal(node, SPOKEN)

    def name(self, name: str, node: ast.expr) -> str:
        if name in self.names:
            return self.names[name].code
        value = self.outer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return repr(float(value))
        raise self.refusal(node, "what it sees, remembers, or was assigned, and numbers")

    def power(self, base: ast.expr, exponent: ast.expr, in_loop: bool) -> str:
        known = literal(exponent)
        if isinstance(known, int) and abs(known) <= LARGEST_LITERAL_EXPONENT:
            return f"({self.number(base, in_loop)} ** {known})"  # a few products, no call of pow
        if known == 0.5:
            return f"sqrt({self.number(base, in_loop)})"
        return f"({self.number(base, in_loop)} ** {self.number(exponent, in_loop)})"

    def is_word(self, name: str, operands: int) -> bool:
        word = None if name in self.names else self.outer.get(name)
        return any(word is known and operands == expected for known, expected in VOCABULARY.items())

    def call(self, word: Any, operands: list[ast.expr], in_loop: bool) -> str:
        if word is where:
            condition, x, y = operands
            test, then = self.code(condition, in_loop), self.number(x, in_loop)
            return f"({then} if {test} else {self.number(y, in_loop)})"
        if word in (sqrt, abs, exp, log):
            return f"{word.__name__}({self.number(operands[0], in_loop)})"
        if word is atan2:
            of = ", ".join(self.number(operand, in_loop) for operand in operands)
            return f"{self.lines.real}_atan2({of})" if in_loop else f"atan2({of})"
        values = [self.lines.once(self.number(operand, in_loop), in_loop) for operand in operands]
        if word is sign:  # of NaN it is 0, as torch has it
            one, minus, zero = (self.lines.constant(k) if in_loop else k for k in ("1.0", "-1.0", "0.0"))
            return f"({one} if {values[0]} > {zero} else ({minus} if {values[0]} < {zero} else {zero}))"
        a, b = values
        relation = ">" if word is maximum else "<"
        return f"({a} if ({a} {relation} {b}) | ({a} != {a}) else {b})"  # NaN from either side, as torch has it

    def refusal(self, node: ast.AST, allowed: str) -> AlgorithmError:
        shown = ast.unparse(node).splitlines()[0]
        return AlgorithmError(f"{self.rule.name} has no kernel because of `{shown}`: a kernel allows {allowed}")
