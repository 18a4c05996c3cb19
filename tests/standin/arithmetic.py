"""The stand-in's arithmetic: how good an answer to ``37+48=`` is, read off the text alone."""

from __future__ import annotations

import operator
import re

_PROBLEM = re.compile(r"(\d{1,9})\s*([+\-*])\s*(\d{1,9})")
_CLAIM = re.compile(r"(\d{1,9})\s*([+\-*])\s*(\d{1,9})\s*=\s*(-?\d{1,18})")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def is_problem(text: str) -> bool:
    return bool(_PROBLEM.search(text))


def grade(problem: str, response: str) -> float:
    """0 to 10: right, near, wrong, no number at all."""
    a, sign, b = _PROBLEM.search(problem).groups()
    truth, numbers = _OPERATIONS[sign](int(a), int(b)), re.findall(r"-?\d{1,18}", response)
    if not numbers:
        return 0.0
    gap = abs(int(numbers[-1]) - truth)
    return 10.0 if gap == 0 else 4.0 if gap <= 10 else 1.0


def step_is_right(step: str) -> bool:
    """Every calculation that it states holds."""
    return all(_OPERATIONS[sign](int(a), int(b)) == int(claim) for a, sign, b, claim in _CLAIM.findall(step))
