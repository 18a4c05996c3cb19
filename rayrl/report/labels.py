"""What judges were asked and what they answered: the label store of a run, as far as it can be read without the room that writes it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COLUMNS = ("kind", "goal", "model", "context", "texts", "state", "label", "error", "raw_answers", "attempts", "tokens", "cost_usd")
_SHOWN, _FAILED_SHOWN = 60, 20
_LONGEST = 1200


@dataclass
class Labels:
    labelled: int = 0
    failed: int = 0
    waiting: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    models: list[str] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    """Failed questions by the first word of their error."""
    values: dict[str, int] = field(default_factory=dict)
    """Labels by value, most frequent first."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The newest labelled questions and the newest failed ones, as texts."""


def read_labels(path: Path) -> tuple[Labels | None, str]:
    """The labels, or None and what is missing (nothing, where the run had no judge)."""
    if not path.is_file():
        return None, ""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
            return _read(db), ""
    except (sqlite3.Error, ValueError, TypeError) as error:
        return None, f"{path.name} cannot be read ({error})"


def _read(db: sqlite3.Connection) -> Labels:
    found = Labels()
    for state, count, tokens, cost in db.execute("SELECT state, COUNT(*), SUM(tokens), SUM(cost_usd) FROM annotations GROUP BY state"):
        found.tokens, found.cost_usd = found.tokens + int(tokens), found.cost_usd + float(cost)
        if state == "labelled":
            found.labelled = count
        else:
            found.failed += count
    found.waiting = db.execute("SELECT COUNT(*) FROM questions").fetchone()[0]
    found.models = [row[0] for row in db.execute("SELECT DISTINCT model FROM annotations LIMIT 5")]
    found.goals = [row[0] for row in db.execute("SELECT DISTINCT goal FROM annotations WHERE goal != '' LIMIT 5")]
    found.errors = dict(
        Counter(row[0].split(":")[0] for row in db.execute("SELECT error FROM annotations WHERE error != ''")).most_common(8)
    )
    labels = db.execute("SELECT label, COUNT(*) FROM annotations WHERE state = 'labelled' GROUP BY label ORDER BY 2 DESC LIMIT 8")
    found.values = {_values(label): count for label, count in labels}
    query = f"SELECT {', '.join(_COLUMNS)} FROM annotations WHERE state {{}} 'labelled' ORDER BY id DESC LIMIT ?"
    for test, limit in (("!=", _FAILED_SHOWN), ("=", _SHOWN)):
        found.rows += [_row(dict(zip(_COLUMNS, row, strict=True))) for row in db.execute(query.format(test), (limit,))]
    return found


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return row | {
        "context": _cut(row["context"]),
        "texts": [_cut(text) for text in json.loads(row["texts"])],
        "answers": [_cut(text) for text in json.loads(row["raw_answers"])],
        "label": _values(row["label"]) if row["state"] == "labelled" else "",
    }


def _values(text: str) -> str:
    """A label's numbers as a person reads them."""
    values = json.loads(text)
    return ", ".join(f"{value:g}" for value in (values if isinstance(values, list) else [values]))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
