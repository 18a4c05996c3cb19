"""Metrics as append-only JSON lines: one line per write, readable while the run goes on and after any crash."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayrl.telemetry.files import storage_errors


class JsonlSink:
    """Appends ``{"step": 3, "time": ..., "learner/loss": ...}``. Numbers that are not finite become null (JSON has no other word)."""

    def __init__(self, path: Path | str) -> None:
        """Continues an existing file. Raises `StorageError`."""
        self.path = Path(path)
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.exists() and self.path.stat().st_size > 0 and _last_byte(self.path) != b"\n"
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
            if torn:  # a crash cut the last line: keep the next one whole
                self._file.write("\n")

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """``time_s``: seconds since the epoch. Raises `StorageError` when the disk is full."""
        row = {"step": step, "time": round(time_s, 3)} | {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        with storage_errors(self.path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")

    def close(self) -> None:
        with storage_errors(self.path):
            self._file.close()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """One row per step, ascending: the values of all its lines, later lines winning.

    A resumed run repeats the steps after its checkpoint, and the repetition is what counts. Lines that a crash cut are skipped.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]
