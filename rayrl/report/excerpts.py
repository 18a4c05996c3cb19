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
_ENVS = 2
_OWN = ("step", "version")


def read_excerpts(folder: Path, labels: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """At most `MOST` excerpts, evenly spread, and what is missing. ``labels``: the label store, where there is one."""
    parts = sorted(folder.glob("step-*.parquet")) if folder.is_dir() else []
    if len(parts) > MOST:
        parts = [parts[i] for i in np.unique(np.linspace(0, len(parts) - 1, MOST).astype(int))]
    found, missing = [], []
    for path in parts:
        try:
            found += _excerpts(pq.read_table(path))
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            missing.append(f"{path.parent.name}/{path.name} cannot be read ({type(error).__name__})")
    known = _labels(labels)
    for excerpt in found:
        excerpt["labels"] = [known.get(key) for key in excerpt.pop("keys")]
    return found, missing


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
    screens = colors = None
    if "chars" in shown and shown["chars"].ndim == 4:
        screens = [_screen(frame) for frame in shown["chars"][:-1, env]]
        if "colors" in shown:
            colors = ["".join(f"{c & 15:x}" for c in frame.reshape(-1)) for frame in shown["colors"][:-1, env]]
    return {
        "step": step,
        "env": env,
        "screens": screens,
        "colors": colors,
        "messages": _messages(fragment, env),
        "keys": fragment.message_hash[:, env].tolist(),
        "sightings": fragment.message_count[:, env].tolist(),
        "actions": fragment.actions[:, env].tolist(),
        "rewards": _rounded(fragment.rewards[:, env]),
        "told": {name: _rounded(values) for name, values in told.items()},
        "ends": np.flatnonzero(fragment.terminated[:, env] | fragment.truncated[:, env]).tolist(),
    }


def _screen(frame: np.ndarray) -> str:
    """Lines of a character map; what is outside of it is blank."""
    return "\n".join("".join(chr(c) if 32 <= c < 127 else " " for c in line) for line in frame)


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
