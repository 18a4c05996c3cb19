"""Spans as Chrome trace JSON, which ui.perfetto.dev opens: one track group per role, one track per thread."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayrl.telemetry.files import storage_errors
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


class _Tracks:
    """Track numbers for roles and their threads, and the trace events of spans. A role keeps its number when the run is resumed."""

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._tids: dict[tuple[str, int], int] = {}

    def events(self, spans_by_role: Mapping[str, Sequence[Span]]) -> Iterator[dict[str, Any]]:
        for role, spans in sorted(spans_by_role.items()):
            pid = zlib.crc32(role.encode()) >> 1  # small enough for a signed number
            if role not in self._named:
                self._named.add(role)
                yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": role}}
            for span in spans:
                tid = self._tids.setdefault((role, span.thread), len(self._tids) + 1)
                # A clock that was set back during the span must not give a negative length.
                event = {"ph": "X", "name": span.name, "ts": span.start_ns / 1e3, "dur": max(0, span.duration_ns) / 1e3}
                yield event | {"pid": pid, "tid": tid} | ({"args": dict(span.args)} if span.args else {})
