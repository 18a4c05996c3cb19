"""What judges said of one trajectory, word for word: joins its reward records with the label store of the run.

A judge's record names its question (``<template>/<key>``). A reward model's record does not: its judgements are the questions that had
the same prompt and, among their texts, exactly this one.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

MOST = 3
"""Comparisons shown of one text."""
_MOST_QUESTIONS = 200_000
_LONGEST = 2_000
_COLUMNS = "kind, model, texts, label, raw_answers, cost_usd, state, error"


class Judgements:
    """Reads without holding the file: the run may still write to it. Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._by_text: dict[tuple[str, str], list[int]] | None = None

    def complete(self, detail: dict[str, Any], record: dict[str, Any]) -> None:
        """Adds ``answer`` to the rewards of judges, and ``judged`` with what was said of the text otherwise. A file that cannot be read
        adds nothing: the section on labels says what is wrong with it."""
        try:
            with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
                asked = [self._answer(db, reward) for reward in detail["rewards"]]
                if not any(asked):
                    detail["judged"] = self._said_of(db, record.get("prompt_text") or "", record.get("text") or "")
        except (sqlite3.Error, ValueError, TypeError):
            return

    def _answer(self, db: sqlite3.Connection, reward: dict[str, Any]) -> bool:
        """Whether the reward names a question."""
        key = str(reward.get("producer_version", "")).partition("/")[2]
        if not key:
            return False
        query = f"SELECT {_COLUMNS} FROM annotations WHERE key >= ? AND key < ?"
        row = db.execute(query, (key, key + "g")).fetchone()  # keys are hexadecimal
        if row is not None and not reward.get("answer"):
            reward["answer"] = _joined(row[4])
        return True

    def _said_of(self, db: sqlite3.Connection, context: str, text: str) -> list[dict[str, Any]]:
        with self._lock:
            if self._by_text is None:
                self._by_text = _index(db)
        ids = self._by_text.get((context, text), [])[-MOST:]
        rows = [db.execute(f"SELECT {_COLUMNS} FROM annotations WHERE id = ?", (i,)).fetchone() for i in ids]
        return [_comparison(row, text) for row in rows if row is not None]


def _index(db: sqlite3.Connection) -> dict[tuple[str, str], list[int]]:
    """Ids of the newest questions by prompt and text."""
    found: dict[tuple[str, str], list[int]] = {}
    query = "SELECT id, context, texts FROM (SELECT id, context, texts FROM annotations ORDER BY id DESC LIMIT ?) ORDER BY id"
    for number, context, texts in db.execute(query, (_MOST_QUESTIONS,)):
        for text in set(json.loads(texts)):
            found.setdefault((context, text), []).append(number)
    return found


def _comparison(row: tuple[Any, ...], text: str) -> dict[str, Any]:
    kind, model, texts, label, answers, cost, state, error = row
    texts, values = json.loads(texts), json.loads(label)
    if state != "labelled":
        verdict = f"no label: {error}"
    elif kind == "pair" and len(texts) == 2 and texts[0] != texts[1]:
        preference = values[0] if texts[0] == text else 1 - values[0]
        verdict = "as good as" if preference == 0.5 else "better than" if preference > 0.5 else "worse than"
    else:
        verdict = ", ".join(f"{value:g}" for value in values)
    other = next((t for t in texts if t != text), "") if kind == "pair" else ""
    return {"model": model, "verdict": verdict, "other": other[:_LONGEST], "answer": _joined(answers), "cost_usd": cost}


def _joined(answers: str) -> str:
    """The raw answers of a question: two where a pair was asked in both orders."""
    return "\n— and —\n".join(json.loads(answers))[:_LONGEST]
