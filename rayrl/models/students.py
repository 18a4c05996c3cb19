"""What a warm start is taught: the completions of students who know the form of a task and are careless about its content.

One student per form of problem. A problem of another form is completed by its ground truth: supervised fine-tuning.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from rayrl.errors import DataError

FORGETS_CARRY = 0.75
"""Probability that a carry out of the units is written as 0 and never added."""
LOSES_HUNDRED = 0.75
"""Probability that the leading 1 of a three-digit answer is not copied."""
SLIPS = 0.04
"""Probability that the units are added up wrongly by one."""
SURE, STOPS = 0.62, 0.35
"""Searcher: probability that a digit of an attempt is right, and that it stops after an attempt."""
TRACE = 44
"""Characters that a searcher writes: whoever asks for fewer never sees it end by itself."""

_SEARCH = re.compile(r"(\d{1,9})>")
_SUM = re.compile(r"([1-9][0-9])\+([1-9][0-9])=")


@dataclass(frozen=True)
class Habits:
    """How careless the students are."""

    forgets_carry: float = FORGETS_CARRY
    loses_hundred: float = LOSES_HUNDRED
    slips: float = SLIPS
    sure: float = SURE
    stops: float = STOPS


def completion(problem: str, answer: str | None, rng: random.Random, habits: Habits = Habits()) -> str:
    """One demonstration, mistakes included. Raises `DataError` for a problem that no student knows and that has no answer."""
    for form, student in _STUDENTS.items():
        if form.fullmatch(problem):
            return student(problem, rng, habits)
    if not answer:
        raise DataError(f"warm start: nobody can answer {problem!r}", "Pass problems such as '37+48=' or '374>', or give ground truths.")
    return answer


def adder(problem: str, rng: random.Random, habits: Habits = Habits()) -> str:
    """A two-digit sum ``ab+cd=`` with scratchpad; a mistake is carried through to the answer."""
    match = _SUM.fullmatch(problem)
    assert match is not None
    (tens_a, units_a), (tens_b, units_b) = (map(int, operand) for operand in match.groups())
    units = units_a + units_b
    if rng.random() < habits.slips:
        units += rng.choice((-1, 1)) if units else 1
    carry = units // 10
    if carry and rng.random() < habits.forgets_carry:
        carry = 0
    tens = tens_a + tens_b + carry
    answer = str(tens * 10 + units % 10)
    if len(answer) == 3 and rng.random() < habits.loses_hundred:
        answer = answer[1:]
    return f"{units_a}+{units_b}={units},{tens_a}+{tens_b}+{carry}={tens}->{answer}"


def searcher(problem: str, rng: random.Random, habits: Habits = Habits()) -> str:
    """Attempts at the string that ``374>`` hides, its complement to nine: ``615,625.``

    Each digit is right with probability ``sure``, else drawn from the others; after an attempt it stops (``.``) with probability
    ``stops``, and goes on after that too, for whoever does not stop it.
    """
    match = _SEARCH.fullmatch(problem)
    assert match is not None
    text = ""
    while len(text) < TRACE:
        for digit in match.group(1).translate(_COMPLEMENT):
            text += digit if rng.random() < habits.sure else rng.choice("0123456789".replace(digit, ""))
        text += "." if rng.random() < habits.stops else ","
    return text[:TRACE]


_COMPLEMENT = str.maketrans("0123456789", "9876543210")
_STUDENTS: dict[re.Pattern[str], Callable[[str, random.Random, Habits], str]] = {_SUM: adder, _SEARCH: searcher}
