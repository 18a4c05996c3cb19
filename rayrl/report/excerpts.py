"""What an environment agent lived through, frame by frame: the screen where it is a map of characters, the message, the label that a
judge gave it, the rewards. Read from the excerpts that the archive keeps (telemetry/fragments.py).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrl.agent_types import Fragment
from rayrl.data import fragment_arrow

MOST = 24
"""Excerpts of one run in a page."""
MOST_EPISODES = 12
"""Watched episodes: the first and the last among them."""
_ENVS = 2
_OWN = ("step", "version")


def read_excerpts(folder: Path, labels: Path, episodes: Path | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """At most `MOST` excerpts of what was trained on and `MOST_EPISODES` watched episodes, evenly spread, the latter last; and what is
    missing. ``labels``: the label store, where there is one."""
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    parts = _spread(folder, MOST) + (_spread(episodes, MOST_EPISODES) if episodes else [])
    for path in parts:
        try:
            found += [one | {"watched": path.parent == episodes} for one in _excerpts(pq.read_table(path))]
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            missing.append(f"{path.parent.name}/{path.name} cannot be read ({type(error).__name__})")
    known = _labels(labels)
    for excerpt in found:
        excerpt["labels"] = [known.get(key) for key in excerpt.pop("keys")]
    return found, missing


def _spread(folder: Path, most: int) -> list[Path]:
    parts = sorted(folder.glob("step-*.parquet")) if folder.is_dir() else []
    return parts if len(parts) <= most else [parts[i] for i in np.unique(np.linspace(0, len(parts) - 1, most).astype(int))]


def _excerpts(table: pa.Table) -> list[dict[str, Any]]:
    """One per environment of the fragment, up to `_ENVS`."""
    names = table.column_names
    told = [name for name in names[: names.index("ordinal")] if name not in _OWN]
    plain = table.drop_columns([*_OWN, *told]).replace_schema_metadata(table.schema.metadata)
    fragment = fragment_arrow.decode(plain.combine_chunks().to_batches()[0])
    lists = {name: np.array(table.column(name)[0].as_py(), np.float32).reshape(fragment.steps, -1) for name in told}
    return [
        _one(fragment, env, int(table["step"][0].as_py()), {name: values[:, env] for name, values in lists.items() if values.size})
        for env in range(min(_ENVS, fragment.envs))
    ]


def _one(fragment: Fragment, env: int, step: int, told: Mapping[str, np.ndarray]) -> dict[str, Any]:
    shown = fragment.observations
    chars, tints = ("tty_chars", "tty_colors") if "tty_chars" in shown else ("chars", "colors")
    screens = None
    if chars in shown and shown[chars].ndim == 4:
        screens = _film(shown[chars][:-1, env], shown[tints][:-1, env] if tints in shown else None)
    return {
        "step": step,
        "env": env,
        "screens": screens,
        "messages": _messages(fragment, env),
        "keys": fragment.message_hash[:, env].tolist(),
        "sightings": fragment.message_count[:, env].tolist(),
        "actions": fragment.actions[:, env].tolist(),
        "rewards": _rounded(fragment.rewards[:, env]),
        "told": {name: _rounded(values) for name, values in told.items()},
        "ends": np.flatnonzero(fragment.terminated[:, env] | fragment.truncated[:, env]).tolist(),
    }


def _film(chars: np.ndarray, colors: np.ndarray | None) -> list[list[Any]]:
    """Per frame the lines that differ from the frame before, flat: number, text, colours (one hexadecimal digit per character)."""
    film: list[list[Any]] = []
    tints = np.full(chars.shape, 7, np.uint8) if colors is None else (colors & 15).astype(np.uint8)
    for t in range(len(chars)):
        same = (chars[t] == chars[t - 1]) & (tints[t] == tints[t - 1]) if t else np.zeros(chars[t].shape, bool)
        film.append([part for row in np.flatnonzero(~same.all(-1)).tolist() for part in (row, _text(chars[t, row]), _hex(tints[t, row]))])
    return film


def _text(line: np.ndarray) -> str:
    """Characters of one line; what is outside of the map is blank."""
    return "".join(chr(c) if 32 <= c < 127 else " " for c in line.tolist())


def _hex(line: np.ndarray) -> str:
    return "".join(f"{c:x}" for c in line.tolist())


def _messages(fragment: Fragment, env: int) -> list[str]:
    shown = fragment.observations.get("message")
    if shown is None or shown.dtype != np.uint8:
        texts = [fragment.texts.get(int(key), b"") for key in fragment.message_hash[:, env]]
    else:
        texts = [bytes(row).rstrip(b"\0") for row in shown[:-1, env]]
    return [text.decode("utf-8", errors="replace") for text in texts]


def _labels(path: Path) -> dict[int, float]:
    """Labels of single messages by their hash."""
    if not path.is_file():
        return {}
    query = "SELECT items, label FROM annotations WHERE state = 'labelled' AND kind IN ('score', 'class')"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
            rows = [(json.loads(items), json.loads(label)) for items, label in db.execute(query)]
    except (sqlite3.Error, ValueError):  # the section on labels says what is wrong with the file
        return {}
    return {int(items[0]): float(label[0]) for items, label in rows if items and label}


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(float(x), 4) if np.isfinite(x) else None for x in values]
