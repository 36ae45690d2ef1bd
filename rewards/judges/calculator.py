"""A tool for judges: arithmetic, exact as far as 50 digits go."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, DecimalException, DivisionByZero, InvalidOperation, Overflow
from typing import Any

__all__ = ["Calculator"]

MAX_CHARACTERS = 500
LARGEST = 1e300
ARITHMETIC = Context(prec=50, Emax=10_000, Emin=-10_000, traps=[DivisionByZero, InvalidOperation, Overflow])
BINARY: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: ARITHMETIC.add,
    ast.Sub: ARITHMETIC.subtract,
    ast.Mult: ARITHMETIC.multiply,
    ast.Div: ARITHMETIC.divide,
    ast.FloorDiv: ARITHMETIC.divide_int,
    ast.Mod: ARITHMETIC.remainder,
    ast.Pow: ARITHMETIC.power,
}
UNARY: dict[type[ast.unaryop], Callable[[Decimal], Decimal]] = {ast.UAdd: ARITHMETIC.plus, ast.USub: ARITHMETIC.minus}


class Calculator:
    """Evaluates + - * / // % ** and brackets; an input that cannot be evaluated has an answer that says so."""

    schema: Mapping[str, Any] = {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Evaluate an arithmetic expression with + - * / // % ** and brackets.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
                "additionalProperties": False,
            },
        },
    }

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Return the value of `arguments["expression"]`, or "error: " and why there is none."""
        expression = arguments.get("expression")
        if not isinstance(expression, str) or len(expression) > MAX_CHARACTERS:
            return f"error: expression must be a text of at most {MAX_CHARACTERS} characters"
        try:
            return _text(_value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"error: not arithmetic: {error}"
        except DecimalException as error:
            return f"error: {type(error).__name__}"


def _text(value: Decimal) -> str:
    whole = value.adjusted() < ARITHMETIC.prec and value == value.to_integral_value(context=ARITHMETIC)
    return str(value.quantize(Decimal(1), context=ARITHMETIC) if whole else value.normalize(ARITHMETIC))


def _value(node: ast.expr) -> Decimal:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and abs(number) < LARGEST:
            return ARITHMETIC.create_decimal(str(number))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand))
    raise ValueError(f"{ast.unparse(node)[:40]!r} is neither a number nor one of the operations")
