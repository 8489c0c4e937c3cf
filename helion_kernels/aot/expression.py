# SPDX-License-Identifier: Apache-2.0
"""Integers that depend on the sizes and strides of an op's tensors, as data.

An expression is a list in postfix order, for a stack machine of a few lines in Python (here) and in
C++ (csrc/expression.cpp):

    ["size", 0, 0, "const", 15, "+", "const", 16, "//", "const", 192, "*"]

`size i d` and `stride i d` push that of the op's i-th argument, `const n` an integer; operators
take two. `//` and `%` round towards minus infinity, as in Python, and are 0 for a divisor of 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Expression = list[Any]
Leaf = tuple[str, int, int]
"""("size" or "stride", argument, dimension)."""

LEAVES = {"size": 2, "stride": 2, "const": 1}
"""Operands that follow a word that pushes."""

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b if b else 0,
    "%": lambda a, b: a % b if b else 0,
    "min": min,
    "max": max,
}

_OPERATOR_OF = {
    "Add": "+",
    "Mul": "*",
    "FloorDiv": "//",
    "CleanDiv": "//",
    "Mod": "%",
    "PythonMod": "%",
    "Min": "min",
    "Max": "max",
}

MOST_WORDS = 64


class Inexpressible(ValueError):
    """What a kernel is given is no function of its op's arguments that we can write down."""


def constant(value: int) -> Expression:
    return ["const", int(value)]


def of(value: Any, leaves: Mapping[Any, Leaf]) -> Expression:
    """An int or a SymInt as an expression."""
    if isinstance(value, int):
        return constant(value)
    words = _postfix(value.node.expr, leaves)
    if len(words) > MOST_WORDS:
        raise Inexpressible(f"too long: {value}")
    return words


def _postfix(tree: Any, leaves: Mapping[Any, Leaf]) -> Expression:
    if tree.is_Integer:
        return constant(tree)
    if tree in leaves:
        return list(leaves[tree])
    operator = _OPERATOR_OF.get(type(tree).__name__)
    if operator is None:
        raise Inexpressible(f"no word for {type(tree).__name__} in {tree}")
    # Summands and factors are sorted: sympy's own order depends on the names of symbols.
    operands = [_postfix(operand, leaves) for operand in tree.args]
    if operator in "+*":
        operands.sort(key=str)
    words = operands[0]
    for operand in operands[1:]:
        words = [*words, *operand, operator]
    return words


def evaluate(words: Expression, sizes: Sequence[Any], strides: Sequence[Any]) -> int:
    """The value, given each argument's sizes and strides."""
    stack: list[int] = []
    rest = iter(words)
    for word in rest:
        if word == "const":
            stack.append(next(rest))
        elif word in LEAVES:
            stack.append((sizes if word == "size" else strides)[next(rest)][next(rest)])
        else:
            right = stack.pop()
            stack.append(OPERATORS[word](stack.pop(), right))
    (value,) = stack
    return value


def value_of(words: Expression) -> int | None:
    """The constant that words are, if they are one."""
    return words[1] if words[0] == "const" and len(words) == 2 else None
