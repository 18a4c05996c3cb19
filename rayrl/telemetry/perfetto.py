"""Spans as Chrome trace JSON, which ui.perfetto.dev opens: one track group per role, one track per thread."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayrl.telemetry.files import replace_atomically, storage_errors
from rayrl.telemetry.spans import Span


class TraceFile:
    """A trace that grows while the run goes on, in constant memory.

    The JSON array is never closed: the trace format allows that, so the file can be opened at any time, also after a crash.
    """

    def __init__(self, path: Path | str) -> None:
        """Continues an existing file (a resumed run adds to it). Raises `StorageError`."""
        self.path = Path(path)
        self._tracks = _Tracks()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            if self.path.stat().st_size == 0:
                self._file.write("[\n")

    def append(self, spans_by_role: Mapping[str, Sequence[Span]]) -> None:
        """Raises `StorageError`."""
        with storage_errors(self.path):
            self._file.writelines(json.dumps(event) + ",\n" for event in self._tracks.events(spans_by_role))
            self._file.flush()

    def close(self) -> None:
        with storage_errors(self.path):
            self._file.close()


def write_perfetto(path: Path | str, spans_by_role: Mapping[str, Sequence[Span]]) -> Path:
    """A complete trace in one go (gzip when the name ends in .gz); replaces ``path`` atomically. Raises `StorageError`."""
    path = Path(path)
    data = json.dumps({"traceEvents": list(_Tracks().events(spans_by_role)), "displayTimeUnit": "ms"}).encode()
    replace_atomically(path, lambda temporary: temporary.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data))
    return path


class _Tracks:
    """Small track numbers for roles and their threads, and the trace events of spans."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._tids: dict[tuple[str, int], int] = {}

    def events(self, spans_by_role: Mapping[str, Sequence[Span]]) -> Iterator[dict[str, Any]]:
        for role, spans in sorted(spans_by_role.items()):
            if role not in self._pids:
                self._pids[role] = len(self._pids) + 1
                yield {"ph": "M", "name": "process_name", "pid": self._pids[role], "args": {"name": role}}
            for span in spans:
                tid = self._tids.setdefault((role, span.thread), len(self._tids) + 1)
                # A clock that was set back during the span must not give a negative length.
                event = {"ph": "X", "name": span.name, "ts": span.start_ns / 1e3, "dur": max(0, span.duration_ns) / 1e3}
                yield event | {"pid": self._pids[role], "tid": tid} | ({"args": dict(span.args)} if span.args else {})
