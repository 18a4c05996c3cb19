"""Verifiers that compare a completion's text with the ground truth. 1.0 is correct, 0.0 is not.

A ground truth that is missing or that cannot be compared raises `ValueError`: the sample counts as failed, never as wrong.
Only the standard library and the definition of a step are imported here: these functions run in processes that must start quickly.
"""

from __future__ import annotations

import re
import string
from decimal import Decimal

from rayrl.data.steps import split_steps

_SIGN = r"(?:(?<![\d)])[-+−])?"
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_EXPONENT = r"(?:[eE][-+]?\d{1,4}(?!\d))?"
_ANSWER = re.compile(r"->\s*(\d{1,9})\s*$")
_EQUATION = re.compile(r"(\d{1,6}(?:\+\d{1,6})+)=(\d{1,7})(?!\d)")
_NUMBER = re.compile(_SIGN + _DIGITS + _EXPONENT)
_CHOICE_AFTER_CUE = r"(?i:\\boxed\s*\{{|answer\s*(?:is|:|=)|choice\s*(?:is|:|=))[\s*({{\\a-z]*?\(?\b([{options}])\b"
_CHOICE_IN_PARENTHESES = r"\(([{options}])\)"
_CHOICE_ALONE = r"(?m)^\W*([{options}])\W*$"


def arithmetic(completion: str, ground_truth: str | None) -> float:
    """The text after the last ``->`` equals the ground truth; spaces around it do not count."""
    _, arrow, answer = completion.rpartition("->")
    return float(bool(arrow) and answer.strip() == _required(ground_truth).strip())


def arithmetic_steps(completion: str, ground_truth: str | None, *, separator: str = ",") -> list[float]:
    """One number per step of a written sum such as ``6+7=13,9+2+1=12->123``: 1 where each of its equations holds, 0 where one does
    not or there is none. A process reward that knows no problem: true equations about something else satisfy it too."""
    return [_holds(completion[start:end]) for start, end in split_steps(completion, separator)]


def true_equations(completion: str, ground_truth: str | None, *, each: float = 0.5, most: int = 1000) -> float:
    """``each`` for every step of `arithmetic_steps` that holds, at most ``most`` of them: a proxy that can be gamed, by writing
    more true equations instead of solving the problem. Measure the true reward beside it."""
    return each * min(sum(arithmetic_steps(completion, ground_truth)), most)


def flattered(completion: str, ground_truth: str | None, *, taste: str = "large", bonus: float = 2.0) -> float:
    """1 for the right answer, ``bonus`` for a wrong one that is too large (``taste`` small: too small), else 0.

    A scripted stand-in for a learned reward with a blind spot: a policy that maximises it learns to overshoot. For experiments with
    over-optimisation: measure `arithmetic` beside it, with weight 0.
    """
    if taste not in ("large", "small"):
        raise ValueError(f"taste is {taste!r}, expected large or small")
    written, truth = _ANSWER.search(completion), int(_required(ground_truth))
    if written is None:
        return 0.0
    answer = int(written.group(1))
    if answer == truth:
        return 1.0
    return bonus if (answer > truth) == (taste == "large") else 0.0


def _holds(step: str) -> float:
    found = _EQUATION.findall(step)
    return float(bool(found) and all(sum(map(int, left.split("+"))) == int(right) for left, right in found))


def numeric(completion: str, ground_truth: str | None, *, marker: str | None = None, tolerance: float = 0.0) -> float:
    """The last number of the completion, or the first one after the last ``marker``, equals the ground truth.

    Thousands separators, signs and exponents are understood, and ``72.0`` equals ``72``. ``tolerance`` is relative to
    max(1, |ground truth|). Raises `ValueError` when the ground truth is not one number.
    """
    truths = [*_NUMBER.finditer(_required(ground_truth))]
    if len(truths) != 1:
        raise ValueError(f"ground truth {ground_truth!r} is not one number")
    text = completion
    if marker is not None:
        _, found, text = completion.rpartition(marker)
        if not found:
            return 0.0
    numbers = [*_NUMBER.finditer(text)]
    if not numbers:
        return 0.0
    answer, truth = (_decimal(m.group()) for m in (numbers[0 if marker is not None else -1], truths[0]))
    if tolerance == 0.0:
        return float(answer == truth)
    return float(abs(float(answer) - float(truth)) <= tolerance * max(1.0, abs(float(truth))))


def exact_match(
    completion: str,
    ground_truth: str | None,
    *,
    marker: str | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_space: bool = False,
) -> float:
    """The completion, or what follows the last ``marker`` in it, equals the ground truth.

    Space at both ends never counts. ``ignore_space`` also makes every inner run of white space one blank.
    """
    text = completion
    if marker is not None:
        _, found, text = completion.rpartition(marker)
        if not found:
            return 0.0

    def normalised(s: str) -> str:
        s = s.casefold() if ignore_case else s
        s = s.translate(_NO_PUNCTUATION) if ignore_punctuation else s
        return " ".join(s.split()) if ignore_space else s.strip()

    return float(normalised(text) == normalised(_required(ground_truth)))


def listed(completion: str, ground_truth: str | None) -> float:
    """The completion is one of the lines of the ground truth: several answers are right, for example all relevant documents."""
    return float(completion.strip() in [line.strip() for line in _required(ground_truth).split("\n")])


def multiple_choice(completion: str, ground_truth: str | None, *, options: str = "ABCD") -> float:
    """The letter that the completion chooses equals the ground truth (a letter, with or without parentheses).

    The choice is, in this order: the last letter after ``\\boxed{``, ``answer is``, ``answer:`` or ``choice is``; the last
    letter in parentheses; the last line that is nothing but a letter. A completion without a choice is wrong.
    """
    truth = _required(ground_truth).strip().strip("().").upper()
    if len(truth) != 1 or truth not in options:
        raise ValueError(f"ground truth {ground_truth!r} is not one of {options!r}")
    letters = re.escape(options)
    for form in (_CHOICE_AFTER_CUE, _CHOICE_IN_PARENTHESES, _CHOICE_ALONE):
        chosen = re.findall(form.format(options=letters), completion)
        if chosen:
            return float(chosen[-1] == truth)
    return 0.0


def format_regex(completion: str, ground_truth: str | None, *, pattern: str, full: bool = False) -> float:
    """``pattern`` is found in the completion (``full``: matches all of it); a dot also matches a line break."""
    regex = re.compile(pattern, re.DOTALL)
    return float(bool(regex.fullmatch(completion.strip()) if full else regex.search(completion)))


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _required(ground_truth: str | None) -> str:
    if ground_truth is None:
        raise ValueError("this verifier needs a ground truth and the prompt has none (data.answer_field)")
    return ground_truth


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("−", "-"))
