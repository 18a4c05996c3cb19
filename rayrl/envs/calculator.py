"""A calculator that the policy may use: it writes ``CALC(3*4)`` and reads `` = 12`` before it goes on.

Use it with ``rollout.sampling.stop: [")"]``, so that a turn ends with the call. The episode ends with an answer (``->`` or
``ANSWER``), with a turn that calls nothing, or after ``max_turns`` turns. Expressions are parsed and walked, never executed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

from rayrl.types import IntArray, Prompt

_CALL = re.compile(r"CALC\(")
_FINAL = re.compile(r"->|ANSWER")
_LONGEST_EXPRESSION = 200
_LARGEST_EXPONENT = 64
_LARGEST_VALUE = 10**18

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class Calculator:
    """A `protocols.TextEnv`; one instance serves one episode."""

    def __init__(self, prompt: Prompt, max_turns: int = 8) -> None:
        self._turns_left = max_turns

    def observe(self, action_text: str, action_ids: IntArray) -> tuple[str | None, bool]:
        """Answers the last ``CALC(...)`` of the turn with `` = value\\n`` or `` = error: reason\\n``."""
        self._turns_left -= 1
        calls = [*_CALL.finditer(action_text)]
        if not calls or self._turns_left <= 0 or _FINAL.search(action_text):
            return None, True
        try:
            return f" = {shown(evaluate(_argument(action_text, calls[-1].end())))}\n", False
        except ValueError as e:
            return f" = error: {e}\n", False


def evaluate(expression: str) -> Number:
    """The value of an arithmetic expression over numbers, ``+ - * / // % **`` and parentheses.

    Raises `ValueError` for anything else, for a division by zero, and for values beyond 10^18 or exponents beyond 64.
    """
    if len(expression) > _LONGEST_EXPRESSION:
        raise ValueError("too long")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError:
        raise ValueError("not an expression") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError:
        raise ValueError("too large") from None


def shown(value: Number) -> str:
    """Integers exactly, other numbers with ten significant digits."""
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            result = number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _value(left), _value(right)
            if isinstance(op, ast.Pow) and abs(b) > _LARGEST_EXPONENT:
                raise ValueError("exponent too large")
            result = _BINARY[type(op)](a, b)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            result = _UNARY[type(op)](_value(operand))
        case _:
            raise ValueError("not arithmetic")
    if isinstance(result, complex):
        raise ValueError("not a real number")
    if not abs(result) <= _LARGEST_VALUE:
        raise ValueError("too large")
    return result


def _argument(text: str, start: int) -> str:
    """The text from ``start`` up to the parenthesis that closes the call, or to the end where the turn stopped before it."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return text[start:]
