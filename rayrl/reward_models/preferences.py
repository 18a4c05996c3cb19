"""Preference data from files: JSONL or Parquet, one example per row, checked as it is read.

Three forms, told apart by their fields:

- pairs: ``chosen`` and ``rejected``; optional ``preference`` in [0, 1] for the chosen one (default 1, a tie is 0.5);
- scores: ``score``, a number;
- classes: ``label``, an integer from 0 on, or true/false.

The text of scores and classes is ``text`` or ``completion``. Any text may be a string or a list of {role, content} messages;
``prompt``, where there is one, is put in front of it and keeps all rows of one prompt on one side of the validation split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rayrl import plugins
from rayrl.data.sources import records
from rayrl.errors import DataError
from rayrl.reward_models.examples import Example, Label, Pair

Render = Callable[[Sequence[Mapping[str, str]]], str]
"""Messages to one text."""
_OBJECTIVE = {"rejected": "ranking", "chosen": "ranking", "score": "regression", "label": "classification"}
_FORMS = "Give every row `chosen` and `rejected`, or a text with `score`, or a text with `label`."


class Preferences(NamedTuple):
    """The examples of a file and what they are good for."""

    examples: list[Example]
    objective: str
    """ranking, regression or classification."""
    classes: int
    """Classes of a classification; 2 elsewhere."""


def plain(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as ``role: content`` lines, for models without a chat template."""
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def chat_renderer(tokenizer: Any) -> Render:
    """The tokenizer's chat template, or `plain` where it has none."""
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return plain
    return lambda messages: tokenizer.apply_chat_template(list(messages), tokenize=False)


def read(source: str, render: Render = plain) -> Preferences:
    """All examples of a file.

    Raises `DataError` with file, line, field and remedy: a field that is missing or of another kind, equal texts, rows of different
    forms, a file without rows, classes of which only one occurs.
    """
    found, unit = records(source, "FILE")
    examples: list[Example] = []
    objective = ""
    for number, record in found:
        row = _Row(record, f"{source}, {unit} {number}", render)
        kind = row.objective()
        if objective and kind != objective:
            raise DataError(f"{row.where}: a row for {kind} among rows for {objective}", _FORMS)
        objective = kind
        examples.append(row.example(kind))
    if not examples:
        raise DataError(f"{source}: no rows", _FORMS)
    classes = 2
    if objective == "classification":
        seen = {int(e.value) for e in examples if isinstance(e, Label)}
        if len(seen) == 1:
            raise DataError(
                f"{source}, field 'label': every row has the class {seen.pop()}", "Add rows of another class: one class teaches nothing."
            )
        classes = max(2, max(seen) + 1)
    return Preferences(examples, objective, classes)


class _Row:
    def __init__(self, record: Any, where: str, render: Render) -> None:
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: found {_shown(record)}, expected an object", "Write one JSON object with named fields per line.")
        self._record, self.where, self._render = record, where, render

    def objective(self) -> str:
        for name, kind in _OBJECTIVE.items():
            if self._record.get(name) is not None:
                return kind
        fields = ", ".join(map(str, self._record)) or "no field"
        guesses = [plugins.nearest(name, map(str, self._record)) for name in ("chosen", "score", "label")]
        raise DataError(
            f"{self.where}: found the fields {fields}, none of which says what is better", next(filter(None, guesses), "") + _FORMS
        )

    def example(self, kind: str) -> Example:
        prompt = self._text("prompt") if self._record.get("prompt") is not None else ""
        if kind == "ranking":
            chosen, rejected = prompt + self._text("chosen"), prompt + self._text("rejected")
            if chosen == rejected:
                raise DataError(
                    f"{self.where}, fields 'chosen' and 'rejected': the texts are equal", "Remove the row: nothing can be preferred."
                )
            preference = self._number("preference") if self._record.get("preference") is not None else 1.0
            if not 0 <= preference <= 1:
                raise DataError(
                    f"{self.where}, field 'preference': found {preference}, expected 0 to 1", "1 is chosen, 0 rejected, 0.5 a tie."
                )
            return Pair(chosen, rejected, preference, group=prompt)
        name = "text" if self._record.get("text") is not None else "completion"
        text = prompt + self._text(name)
        if kind == "regression":
            return Label(text, self._number("score"), group=prompt)
        label = self._number("label", booleans=True)
        if label != int(label) or label < 0:
            raise DataError(f"{self.where}, field 'label': found {label}, expected a class 0, 1, 2 ...", "Use `score` for numbers.")
        return Label(text, label, group=prompt)

    def _text(self, name: str) -> str:
        value = self._record.get(name)
        if value is None:
            near = plugins.nearest(name, map(str, self._record))
            raise DataError(f"{self.where}: field {name!r} is missing; found {', '.join(map(str, self._record))}", f"{near}{_FORMS}")
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence) and value and all(_is_message(m) for m in value):
            return self._render(value)
        raise DataError(
            f"{self.where}, field {name!r}: found {_shown(value)}, expected a string or a list of messages",
            'Write a string, or a list of messages {"role": "user", "content": "..."}.',
        )

    def _number(self, name: str, *, booleans: bool = False) -> float:
        value = self._record[name]
        number = isinstance(value, int | float) and (booleans or not isinstance(value, bool))
        if not number or not math.isfinite(value):
            raise DataError(f"{self.where}, field {name!r}: found {_shown(value)}, expected a finite number", "Repair or remove the row.")
        return float(value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(k), str) for k in ("role", "content"))


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
