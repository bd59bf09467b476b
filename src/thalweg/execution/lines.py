"""The lines of a kernel while it is written."""

from __future__ import annotations

from typing import NamedTuple


class Value(NamedTuple):
    """What a name stands for: its code, whether that varies, and whether it is the outcome of a comparison."""

    code: str
    varies: bool
    is_truth: bool = False


class Lines:
    """The lines of a kernel, as they come."""

    def __init__(self, real: str) -> None:
        self.real = real  # the precision of the loop, float32 or float64
        self.before: list[str] = []  # the lines ahead of the loop
        self.inside: list[str] = []  # the lines of the loop
        self.constants: dict[str, str] = {}  # a statement's invariant parts and the names they have in the loop
        self.new: dict[str, str] = {}  # the new vector memory, in code

    def add(self, name: str, code: str, in_loop: bool) -> str:
        """Gives a code a name; it returns the name."""
        (self.inside if in_loop else self.before).append(f"{name} = {code}")
        return name

    def constant(self, code: str, is_truth: bool = False) -> str:
        """The name that an invariant part has in the loop."""
        if code not in self.constants:
            name = f"c_{sum(line.startswith('c_') for line in self.before)}"
            self.constants[code] = self.add(name, code if is_truth else f"real({code})", False)
        return self.constants[code]

    def once(self, code: str, in_loop: bool) -> str:
        """The name of an operand that is needed twice."""
        if code.isidentifier():
            return code
        return self.add(f"w_{sum(line.startswith('w_') for line in self.before + self.inside)}", code, in_loop)
