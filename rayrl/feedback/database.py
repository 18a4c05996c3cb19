"""The label store on disk: one SQLite file in write-ahead mode. A committed transaction survives the death of the process.

``annotations`` is the log: one row per question that reached its end, with everything that is needed to read its prompt and its
answer again. ``questions`` holds what is still open, ``attempts`` every answer that was of no use, ``texts`` what was sighted.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rayrl.annotations import Annotation, Question, QuestionKind, QuestionState
from rayrl.errors import StorageError
from rayrl.feedback.ledger import Entry
from rayrl.feedback.pending import Pending

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS templates (hash TEXT PRIMARY KEY, name TEXT NOT NULL, source TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS questions (
    key TEXT PRIMARY KEY, template TEXT NOT NULL, context TEXT NOT NULL, texts TEXT NOT NULL, items TEXT NOT NULL, urgent INTEGER NOT NULL,
    asked INTEGER NOT NULL, sightings INTEGER NOT NULL, first_sightings INTEGER NOT NULL, seen INTEGER NOT NULL, uncertainty REAL NOT NULL,
    attempts INTEGER NOT NULL, tokens INTEGER NOT NULL, cost_usd REAL NOT NULL,
    reserved_tokens INTEGER NOT NULL, reserved_usd REAL NOT NULL);
CREATE TABLE IF NOT EXISTS annotations (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, template TEXT NOT NULL, goal TEXT NOT NULL, model TEXT NOT NULL,
    context TEXT NOT NULL, texts TEXT NOT NULL, items TEXT NOT NULL, state TEXT NOT NULL, label TEXT NOT NULL, error TEXT NOT NULL,
    raw_answers TEXT NOT NULL, attempts INTEGER NOT NULL, latency_s REAL NOT NULL, tokens INTEGER NOT NULL, cost_usd REAL NOT NULL,
    time_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, error TEXT NOT NULL, raw_answers TEXT NOT NULL, latency_s REAL NOT NULL,
    time_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS texts (
    item TEXT PRIMARY KEY, text TEXT NOT NULL, sightings INTEGER NOT NULL, first_sightings INTEGER NOT NULL, seen INTEGER NOT NULL);
"""
_ANNOTATION = (
    "id, key, kind, template, goal, model, context, texts, items, state, label, error, raw_answers, attempts, latency_s, tokens, cost_usd"
)


class Database:
    """One writer and one reader connection, each behind a lock. Raises `StorageError` when the file cannot be used."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.is_file():
            raise StorageError(f"there is no label file {path}", "name the feedback.sqlite of a run that used a judge")
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        with self._errors():
            self._reader = self._connect("ro" if read_only else "rwc")
            self._writer = self._reader if read_only else self._connect("rwc")
            if not read_only:
                self._prepare()
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise StorageError(
                f"{path} has label format {version}; this rayrl reads {FORMAT}", "use the rayrl that wrote it, or another run.dir"
            )

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    # ---- writing ------------------------------------------------------------------------------------------------------------

    def commit(
        self, pending: Pending, questions: Iterable[Entry], texts: Iterable[tuple[int, str, int, int, int]], meta: Mapping[str, float]
    ) -> None:
        """One transaction: all of it is on disk when this returns, or nothing. ``questions`` and ``texts`` replace their rows."""
        now = time.time()
        with self._write_lock, self._errors(), self._writer as db:
            db.executemany("INSERT OR IGNORE INTO templates VALUES (?, ?, ?)", [(t.hash, t.name, t.source) for t in pending.templates])
            db.executemany("DELETE FROM questions WHERE key = ?", [(key,) for key in pending.gone])
            db.executemany(f"INSERT OR REPLACE INTO questions VALUES ({_marks(16)})", [_question_row(e) for e in questions])
            db.executemany(
                f"INSERT INTO annotations ({_ANNOTATION}, time_s) VALUES ({_marks(18)})",
                [(*_annotation_row(a), now) for a in pending.finals],
            )
            db.executemany("INSERT INTO attempts (key, error, raw_answers, latency_s, time_s) VALUES (?, ?, ?, ?, ?)", pending.attempts)
            db.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?, ?)", [(str(item), *rest) for item, *rest in texts])
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(meta.items()))

    def copy_to(self, path: Path) -> None:
        """Everything committed so far, as one file of its own that needs no journal. Writers wait meanwhile; readers do not."""
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        with self._write_lock, self._errors():
            self._writer.execute("VACUUM INTO ?", (str(part),))
        os.replace(part, path)

    # ---- reading ------------------------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, float]:
        return dict(self._rows("SELECT name, value FROM meta"))

    def open_questions(self) -> list[Entry]:
        """As they were told last; whoever was in flight has something reserved."""
        return [_entry(row) for row in self._rows("SELECT * FROM questions ORDER BY seen")]

    def settled(self) -> list[tuple[int, str, str, str, str, str, str, str, str]]:
        """``id, key, template, goal, model, items, state, label, error`` of every annotation, by id."""
        return self._rows("SELECT id, key, template, goal, model, items, state, label, error FROM annotations ORDER BY id")

    def texts(self) -> list[tuple[int, str, int, int, int]]:
        """``item, text, sightings, first_sightings, seen``, the one not seen for longest first."""
        return [(int(item), *rest) for item, *rest in self._rows("SELECT * FROM texts ORDER BY seen")]

    def annotation(self, key: str) -> Annotation | None:
        rows = self._rows(f"SELECT {_ANNOTATION} FROM annotations WHERE key = ?", (key,))
        return _annotation(rows[0]) if rows else None

    def annotations_after(self, cursor: int, limit: int, template: str, goal: str, model: str) -> list[Annotation]:
        """Labelled ones, by id."""
        where = "id > ? AND state = 'labelled' AND template = ? AND goal = ? AND model = ? ORDER BY id LIMIT ?"
        found = self._rows(f"SELECT {_ANNOTATION} FROM annotations WHERE {where}", (cursor, template, goal, model, limit))
        return [_annotation(row) for row in found]

    def all_annotations(self) -> Iterator[Annotation]:
        """The whole log, by id."""
        yield from (_annotation(row) for row in self._rows(f"SELECT {_ANNOTATION} FROM annotations ORDER BY id"))

    def spent(self) -> tuple[int, float]:
        """Tokens and money of all questions, open ones included."""
        parts = "SELECT tokens, cost_usd FROM annotations UNION ALL SELECT tokens, cost_usd FROM questions"
        tokens, usd = self._rows(f"SELECT COALESCE(SUM(tokens), 0), COALESCE(SUM(cost_usd), 0.0) FROM ({parts})")[0]
        return int(tokens), float(usd)

    # ---- inside ---------------------------------------------------------------------------------------------------------------

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._read_lock, self._errors():
            return self._reader.execute(sql, values).fetchall()

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=10.0, check_same_thread=False)

    def _prepare(self) -> None:
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(
            "PRAGMA synchronous = NORMAL"
        )  # the death of the process loses nothing; that of the machine at most the last commits
        fresh = not self._writer.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        self._writer.executescript(_SCHEMA)
        if fresh:
            self._writer.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise StorageError(f"{self.path}: {e}", "free space, or choose a run.dir that can be written") from e


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _question_row(e: Entry) -> tuple:
    q = e.question
    return (
        *(e.key, e.template, q.context, json.dumps(q.texts), json.dumps(e.items), int(e.urgent), int(e.asked)),
        *(e.sightings, e.first_sightings, e.seen, e.uncertainty, e.attempts, e.tokens, e.cost_usd, e.reserved_tokens, e.reserved_usd),
    )


def _entry(row: tuple) -> Entry:
    key, template, context, texts, items, urgent, asked, *numbers = row
    sightings, first, seen, uncertainty, attempts, tokens, cost, reserved, reserved_usd = numbers
    question = Question(tuple(json.loads(texts)), context, uncertainty)
    entry = Entry(key, question, template, tuple(json.loads(items)), urgent=bool(urgent), asked=bool(asked), uncertainty=uncertainty)
    entry.sightings, entry.first_sightings, entry.seen = sightings, first, seen
    entry.attempts, entry.tokens, entry.cost_usd = attempts, tokens, cost
    entry.reserved_tokens, entry.reserved_usd = reserved, reserved_usd
    return entry


def _annotation_row(a: Annotation) -> tuple:
    q = a.question
    return (
        *(a.id, a.key, str(a.kind), a.template, a.goal, a.model, q.context, json.dumps(q.texts), json.dumps(a.items), str(a.state)),
        *(json.dumps(a.values), a.error, json.dumps(a.raw_answers), a.attempts, a.latency_s, a.tokens, a.cost_usd),
    )


def _annotation(row: tuple) -> Annotation:
    number, key, kind, template, goal, model, context, texts, items, state, label, error, raw, attempts, latency, tokens, cost = row
    return Annotation(
        id=number,
        key=key,
        kind=QuestionKind(kind),
        question=Question(tuple(json.loads(texts)), context),
        items=tuple(json.loads(items)),
        state=QuestionState(state),
        values=tuple(json.loads(label)),
        error=error,
        template=template,
        goal=goal,
        model=model,
        raw_answers=tuple(json.loads(raw)),
        attempts=attempts,
        latency_s=latency,
        tokens=tokens,
        cost_usd=cost,
    )


def is_whole(path: Path) -> bool:
    """Whether a label file can be read from end to end."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            return file.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.Error:
        return False
