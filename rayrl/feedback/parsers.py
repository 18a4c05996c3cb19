"""Strict readers of answers. What is not exactly an answer is an `Unreadable` with its reason, never a number.

Every kind ends in one tag: ``<score>7</score>``, ``<label>FOO</label>``, ``<best>1</best>`` (or 2, tie), ``<ranking>2, 1, 3</ranking>``
(best first), ``<steps>good, bad</steps>``. Prose before it is free; after it comes nothing. The tag may be repeated only with the
same content.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rayrl.annotations import QuestionKind
from rayrl.feedback.templates import Template

TAGS = {
    QuestionKind.SCORE: "score",
    QuestionKind.CLASS: "label",
    QuestionKind.PAIR: "best",
    QuestionKind.RANKING: "ranking",
    QuestionKind.STEPS: "steps",
}
_NUMBER = re.compile(r"[+-]?[0-9]{1,6}(\.[0-9]{1,6})?")
_REFUSAL = re.compile(
    r"\b(i('|’)?m sorry|i am sorry|i apologi[sz]e|i (can('|’)?t|cannot|can not|won('|’)?t|will not|am unable|am not able)"
    r"|i must decline|as an ai\b|unable to (help|assist|answer|judge|comply)|not able to (help|assist|answer|judge|comply))",
    re.IGNORECASE,
)


class Unreadable(ValueError):
    """An answer without a label. ``kind``: malformed, refused, contradictory or overlong."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def read(answer: str, template: Template, count: int = 1, cut_off: bool = False) -> tuple[float, ...]:
    """The values of one answer, see `QuestionKind`. ``count``: texts of the question. Raises `Unreadable`."""
    if cut_off:
        raise Unreadable("overlong", "the answer ran into the token limit")
    if len(answer) > template.max_chars:
        raise Unreadable("overlong", f"{len(answer)} characters, read are at most {template.max_chars}")
    return _READERS[template.kind](_content(answer, TAGS[template.kind]), template, count)


def _content(answer: str, tag: str) -> str:
    """What the tag holds."""
    found = list(re.finditer(rf"<{tag}>\s*([^<>]*?)\s*</{tag}>", answer, re.IGNORECASE))
    if not found:
        if _REFUSAL.search(answer):
            raise Unreadable("refused", "the judge declines")
        raise Unreadable("malformed", f"no <{tag}>…</{tag}>" if answer.strip() else "empty answer")
    if len({m[1].strip().lower() for m in found}) > 1:
        raise Unreadable("contradictory", f"{len(found)} different <{tag}>")
    if len(re.findall(rf"</?{tag}>", answer, re.IGNORECASE)) != 2 * len(found):
        raise Unreadable("malformed", f"a <{tag}> is not closed")
    if answer[found[-1].end() :].strip():
        raise Unreadable("malformed", f"text after </{tag}>")
    return found[-1][1].strip()


def _score(content: str, template: Template, count: int) -> tuple[float, ...]:
    if not _NUMBER.fullmatch(content):
        raise Unreadable("malformed", f"{content[:40]!r} is no plain number")
    low, high = template.scale
    value = float(content)
    if not low <= value <= high:
        raise Unreadable("malformed", f"{value:g} is not between {low:g} and {high:g}")
    return ((value - low) / (high - low),)


def _class(content: str, template: Template, count: int) -> tuple[float, ...]:
    return (_word(content, template),)


def _pair(content: str, template: Template, count: int) -> tuple[float, ...]:
    value = {"1": 1.0, "2": 0.0, "tie": 0.5}.get(content.lower())
    if value is None:
        raise Unreadable("malformed", f"{content[:40]!r} is neither 1, 2 nor tie")
    return (value,)


def _ranking(content: str, template: Template, count: int) -> tuple[float, ...]:
    parts = [part.strip() for part in content.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", part) for part in parts):
        raise Unreadable("malformed", f"{content[:40]!r} is no list of numbers")
    order = [int(part) for part in parts]
    if len(order) != len(set(order)):
        raise Unreadable("contradictory", "a text has two places")
    if sorted(order) != list(range(1, count + 1)):
        raise Unreadable("malformed", f"the places of {count} texts are not 1 to {count}")
    return tuple(float(order.index(i)) for i in range(1, count + 1))


def _steps(content: str, template: Template, count: int) -> tuple[float, ...]:
    words = [part.strip() for part in content.split(",")]
    if len(words) != count:
        raise Unreadable("malformed", f"{len(words)} verdicts for {count} steps")
    return tuple(_word(word, template) for word in words)


def _word(content: str, template: Template) -> float:
    """1 for the positive word, 0 for the other; nothing else is a word."""
    places = [word.lower() for word in template.words]
    if content.lower() not in places:
        raise Unreadable("malformed", f"{content[:40]!r} is neither {template.words[0]} nor {template.words[1]}")
    return 1.0 - places.index(content.lower())


_READERS: dict[QuestionKind, Callable[[str, Template, int], tuple[float, ...]]] = {
    QuestionKind.SCORE: _score,
    QuestionKind.CLASS: _class,
    QuestionKind.PAIR: _pair,
    QuestionKind.RANKING: _ranking,
    QuestionKind.STEPS: _steps,
}
