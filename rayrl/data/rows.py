"""One row of a prompt source, checked: what is wrong is said with file, line, field, what was found and what helps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayrl import plugins
from rayrl.config.schema import DataConfig
from rayrl.errors import ConfigError, DataError

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A question before it is rendered to ids."""

    prompt: str | Sequence[Message]
    """Plain text, or chat messages with ``role`` and ``content``."""
    answer: str | None = None
    """Ground truth."""
    task: str = "default"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The remaining columns; JSON-serialisable."""
    number: int = 0
    """1-based line (JSONL) or row of its source."""


class RowParser:
    """Turns records (column name → value) into `Row` objects as the configuration says. Raises `DataError` for a bad record."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        try:
            self._pattern = re.compile(config.answer_pattern) if config.answer_pattern is not None else None
        except re.error as e:
            raise ConfigError(
                f"data.answer_pattern = {config.answer_pattern!r} is not a regular expression: {e}", "Escape it or mend it."
            ) from e
        if self._pattern is not None and self._pattern.groups < 1:
            raise ConfigError(f"data.answer_pattern = {config.answer_pattern!r} has no group", "Put what to cut out in (parentheses).")

    def parse(self, record: Any, source: str, unit: str, number: int) -> Row:
        """``source``, ``unit`` (line or row) and ``number`` say where the record came from."""
        where = f"{source}, {unit} {number}"
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: found {_shown(record)}, expected an object", "Write one JSON object with named fields per line.")
        config = self._config
        prompt = self._prompt(record, where)
        answer = None if config.answer_field is None else self._answer(record, where, config.answer_field)
        task = "default" if config.task_field is None else self._text(record, where, config.task_field, "data.task_field")
        used = {config.prompt_field, config.answer_field, config.task_field}
        metadata = {name: value for name, value in record.items() if name not in used}
        self._check_serialisable(metadata, where)
        return Row(prompt, answer, task, metadata, number)

    def _prompt(self, record: Mapping[str, Any], where: str) -> str | Sequence[Message]:
        name = self._config.prompt_field
        value = _field(record, where, name, "data.prompt_field")
        if isinstance(value, str):
            if not value.strip():
                raise DataError(f"{where}, field {name!r}: the prompt is empty", "Fill it in or remove the row.")
            return value
        if not isinstance(value, Sequence) or isinstance(value, bytes):
            raise DataError(f"{where}, field {name!r}: found {_shown(value)}, expected a string or a list of messages", _PROMPT_HINT)
        if not value:
            raise DataError(f"{where}, field {name!r}: the prompt is empty", "Fill it in or remove the row.")
        for i, message in enumerate(value):
            texts = [message.get(k) for k in ("role", "content")] if isinstance(message, Mapping) else []
            if not texts or not all(isinstance(t, str) for t in texts):
                raise DataError(f"{where}, field {name!r}, message {i + 1}: found {_shown(message)}", _PROMPT_HINT)
        return [dict(m) for m in value]

    def _answer(self, record: Mapping[str, Any], where: str, name: str) -> str:
        answer = self._text(record, where, name, "data.answer_field")
        if self._pattern is None:
            return answer
        match = self._pattern.search(answer)
        if match is None or match.group(1) is None:
            raise DataError(
                f"{where}, field {name!r}: data.answer_pattern {self._pattern.pattern!r} does not match {_shown(answer)}",
                "Change data.answer_pattern so that its first group finds the answer, or repair the row.",
            )
        return match.group(1).strip()

    @staticmethod
    def _text(record: Mapping[str, Any], where: str, name: str, key: str) -> str:
        value = _field(record, where, name, key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(
                f"{where}, field {name!r}: found {_shown(value)}, expected a string or a number", f"Repair the row or change {key}."
            )
        return str(value)

    @staticmethod
    def _check_serialisable(metadata: Mapping[str, Any], where: str) -> None:
        for name, value in metadata.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as e:
                raise DataError(f"{where}, field {name!r}: found {type(value).__name__}, which JSON cannot hold", "Drop the column.") from e


_PROMPT_HINT = 'Write a string, or a list of messages {"role": "user", "content": "..."}.'


def _field(record: Mapping[str, Any], where: str, name: str, key: str) -> Any:
    if name not in record:
        guess = plugins.nearest(name, map(str, record))
        raise DataError(f"{where}: field {name!r} is missing; found {', '.join(map(str, record)) or 'no field'}", f"{guess}set {key}.")
    return record[name]


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
