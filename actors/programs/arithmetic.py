"""Exact evaluation of + - * / and parentheses, safe on whatever a model writes."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

__all__ = ["evaluate"]

# Bounds parsing depth, and with + - * / alone also the size of every intermediate number.
LONGEST = 100
ALLOWED = re.compile(r"[0-9.+\-*/() ]+")
LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")

BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
UNARY: dict[type[ast.unaryop], Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(expression: str) -> str:
    """Return the value as text: exact for whole numbers, else twelve significant digits.

    Raises:
      ValueError: not an expression of these operators, too long, or a division by zero.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"expression of {len(expression)} characters; at most {LONGEST} are evaluated")
    # No letters: nothing but numbers can be named, and the parser has nothing to warn about.
    if not ALLOWED.fullmatch(expression):
        raise ValueError(f"{expression!r} holds more than digits and + - * / ( )")
    try:
        tree = ast.parse(LEADING_ZEROS.sub("", expression.strip()), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r}: {error}") from error
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand))
        case ast.Constant(value=int() | float() as number):
            # Through text, so that 0.1 is a tenth and not its nearest binary fraction.
            return Fraction(repr(number))
    raise ValueError(f"{ast.unparse(node)!r} is not one of + - * /")
