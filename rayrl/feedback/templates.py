"""Prompt templates: YAML files with variables, a kind of question, and goals. A template's hash is part of every question it wrote.

A file has ``kind``, ``system``, ``user``, ``goals`` (name: sentence) and, by kind, ``scale`` (score) or ``words`` (class, steps:
the positive one, then the other). Variables are written ``{name}``; a literal brace is doubled. Every kind has ``{goal}`` and
``{context}``; score and class have ``{text}``; pair has ``{first}`` and ``{second}``; ranking and steps have ``{texts}`` (a numbered
list) and ``{count}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash
import yaml

from rayrl.annotations import Question, QuestionKind
from rayrl.errors import ConfigError
from rayrl.plugins import nearest

FOLDER = Path(__file__).parent / "templates"
_VARIABLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_TEXT_VARIABLES = {
    QuestionKind.SCORE: ("text",),
    QuestionKind.CLASS: ("text",),
    QuestionKind.PAIR: ("first", "second"),
    QuestionKind.RANKING: ("texts",),
    QuestionKind.STEPS: ("texts",),
}
_KEYS = {"kind", "system", "user", "goals", "scale", "words", "max_chars"}
_NEEDS_WORDS = (QuestionKind.CLASS, QuestionKind.STEPS)


@dataclass(frozen=True)
class Template:
    """One way to ask. Equal sources have equal hashes wherever the file lies."""

    name: str
    source: str
    """The file's text: kept in the label store, so that every prompt can be read again."""
    kind: QuestionKind
    system: str
    user: str
    goals: Mapping[str, str] = field(default_factory=dict)
    scale: tuple[float, float] = (0.0, 10.0)
    """Lowest and highest score that the text asks for; mapped onto [0, 1]."""
    words: tuple[str, str] = ("FOO", "BAR")
    max_chars: int = 8000
    """A longer answer is not read."""

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the source."""
        return xxhash.xxh3_64_hexdigest(self.source.encode())

    def goal_sentence(self, goal: str) -> str:
        """The sentence behind a goal's name; a goal with a space in it is a sentence already. Raises `ConfigError` for another name."""
        if goal in self.goals:
            return self.goals[goal]
        if " " in goal.strip():
            return goal.strip()
        raise ConfigError(
            f"feedback.goal: template {self.name!r} has no goal {goal!r}",
            f"{nearest(goal, self.goals)}its goals are {', '.join(self.goals) or 'none'}; a sentence of your own works too",
        )

    def check(self, question: Question) -> str:
        """What makes a question impossible for this template, or an empty string."""
        count = len(question.texts)
        if self.kind in (QuestionKind.SCORE, QuestionKind.CLASS) and count != 1:
            return f"a {self.kind} question has one text, not {count}"
        if self.kind is QuestionKind.PAIR and count != 2:
            return f"a pair has two texts, not {count}"
        if self.kind is QuestionKind.RANKING and count < 2:
            return "a ranking has two texts or more"
        if self.kind in (QuestionKind.PAIR, QuestionKind.RANKING) and len(set(question.texts)) < count:
            return "equal texts cannot be compared"
        return "" if count else "a question needs a text"

    def messages(self, question: Question, goal: str) -> list[dict[str, str]]:
        """``{role, content}`` messages; ``goal`` is a sentence. Braces inside texts are left alone."""
        values = {"goal": goal, "context": question.context} | self._text_values(question)
        filled = [("system", _fill(self.system, values)), ("user", _fill(self.user, values))]
        return [{"role": role, "content": content.strip()} for role, content in filled if content.strip()]

    def _text_values(self, question: Question) -> dict[str, str]:
        texts = question.texts
        if self.kind in (QuestionKind.SCORE, QuestionKind.CLASS):
            return {"text": texts[0]}
        if self.kind is QuestionKind.PAIR:
            return {"first": texts[0], "second": texts[1]}
        return {"texts": "\n".join(f"[{i}] {text}" for i, text in enumerate(texts, 1)), "count": str(len(texts))}


def names() -> list[str]:
    """Templates that come with rayrl."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, key: str = "feedback.template") -> Template:
    """A template by name or path. Raises `ConfigError`: no such file, not YAML, unknown key, unknown or missing variable."""
    path = Path(name) if "/" in name or name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{key}: there is no template {name!r}",
            f"{nearest(name, names())}known are {', '.join(names())}; or give a path to a .yaml file",
        )
    return parse(path.read_text(encoding="utf-8"), path.stem, f"{key}: {path}")


def parse(source: str, name: str, where: str) -> Template:
    """A template from its text; ``where`` begins every message."""
    try:
        data = yaml.safe_load(source)
    except yaml.YAMLError as e:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(e).split())}", "quote texts that begin with { or contain ': '") from e
    if not isinstance(data, dict) or not {"kind", "user"} <= data.keys():
        raise ConfigError(f"{where} needs the keys kind and user", "see the templates in rayrl/feedback/templates")
    for unknown in data.keys() - _KEYS:
        raise ConfigError(f"{where} has the unknown key {unknown!r}", f"{nearest(str(unknown), _KEYS)}known are {', '.join(sorted(_KEYS))}")
    try:
        kind = QuestionKind(data["kind"])
    except ValueError:
        kinds, written = [str(kind) for kind in QuestionKind], str(data["kind"])
        raise ConfigError(f"{where}: kind is {written!r}", f"{nearest(written, kinds)}one of: {', '.join(kinds)}") from None
    template = Template(
        name,
        source,
        kind,
        str(data.get("system") or ""),
        str(data["user"]),
        {str(goal): str(text or "") for goal, text in (data.get("goals") or {"default": ""}).items()},
        _two(data, "scale", where, float, (0.0, 10.0)),
        _two(data, "words", where, str, ("FOO", "BAR") if kind is QuestionKind.CLASS else ("good", "bad")),
        int(data.get("max_chars", 8000)),
    )
    _check_variables(template, where)
    if not template.scale[0] < template.scale[1]:
        raise ConfigError(f"{where}: scale {list(template.scale)} does not rise", "write scale: [lowest, highest]")
    if kind in _NEEDS_WORDS and any(word.lower() not in (template.system + template.user).lower() for word in template.words):
        raise ConfigError(f"{where}: the text does not tell both words {list(template.words)}", "the judge must know what to answer")
    return template


def _two(data: Mapping[str, Any], key: str, where: str, kind: type, default: tuple) -> tuple:
    value = data.get(key)
    if value is None:
        return default
    try:
        first, second = (kind(part) for part in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {key} is {value!r}", f"write {key} as a list of two") from None
    if str(first).lower() == str(second).lower():
        raise ConfigError(f"{where}: {key} is {value!r}", "the two must differ")
    return first, second


def _check_variables(template: Template, where: str) -> None:
    wanted = _TEXT_VARIABLES[template.kind]
    known = {"goal", "context", *wanted, *(["count"] if wanted == ("texts",) else [])}
    used = {m[1] for part in (template.system, template.user) for m in _VARIABLE.finditer(part) if m[1] is not None}
    for unknown in sorted(used - known):
        raise ConfigError(
            f"{where} uses the unknown variable {{{unknown}}}",
            f"{nearest(unknown, known)}a {template.kind} template has {', '.join(f'{{{v}}}' for v in sorted(known))}; double other braces",
        )
    for missing in [name for name in wanted if name not in used]:
        raise ConfigError(f"{where} does not show {{{missing}}}", "the judge would answer without having seen the text")


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda m: m[0][0] if m[1] is None else values[m[1]], text)
