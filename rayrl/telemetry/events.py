"""What happened in a run that is no number: begin, resume, saves, lost workers, the end. One JSON line each, whole after any crash.

And whether the run is alive: a small status file whose time is renewed while the driver's process lives.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayrl.telemetry.files import replace_atomically, storage_errors

BEAT_S = 5.0
"""How often a living run renews its status file."""
STALE_S = 6 * BEAT_S
"""A run of another machine that was silent for so long is taken for dead."""
RUNNING = ("starting", "running")


class EventLog:
    """Appends ``{"time": ..., "step": ..., "kind": "saved", "text": ...}``. Any thread may write."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def write(self, kind: str, text: str, step: int) -> None:
        """``kind`` is one short word that readers select by. Raises `StorageError`."""
        row = {"time": round(time.time(), 3), "step": step, "kind": kind, "text": text}
        with self._lock, storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class Heartbeat:
    """The status file of a run: who runs it, where, how far it is. A thread renews its time until `close`."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """``facts`` are kept in the file as they are; JSON-able."""
        self._path = path
        self._status = dict(facts) | {"pid": os.getpid(), "host": socket.gethostname(), "began": _began(os.getpid()), "state": "starting"}
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def update(self, **facts: Any) -> None:
        """Changes what the file says."""
        self._status |= facts
        self._write()

    def close(self, state: str) -> None:
        """The last word: finished, failed or interrupted."""
        self._ended.set()
        self._thread.join(BEAT_S)
        self.update(state=state)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                os.utime(self._path)
            except OSError:  # moved or full: the next update says so where somebody listens
                continue

    def _write(self) -> None:
        replace_atomically(self._path, lambda part: part.write_text(json.dumps(self._status) + "\n", encoding="utf-8"))


def read_status(path: Path) -> dict[str, Any] | None:
    """The status file, with ``alive`` added; None where there is none that can be read.

    On the machine of the run its process is asked for; elsewhere the age of the file decides.
    """
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
        age = time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return None
    if not isinstance(status, dict):
        return None
    alive = status.get("state") in RUNNING
    if alive and status.get("host") == socket.gethostname():
        began = _began(status.get("pid", -1))
        alive = began is not None and began == status.get("began")
    elif alive:
        alive = age < STALE_S
    return status | {"alive": alive, "age_s": age}


def find_runs(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The status of every run in these folders (and of those that are run folders themselves), with ``folder``; living ones first."""
    places = {path for folder in folders for path in (*Path(folder).glob("status.json"), *Path(folder).glob("*/status.json"))}
    found = [(path, read_status(path)) for path in sorted(places)]
    rows = [status | {"folder": str(path.parent)} for path, status in found if status is not None]
    return sorted(rows, key=lambda row: (not row["alive"], row["age_s"]))


def _began(pid: int) -> float | None:
    """When a process of this machine began, so that a reused process number is not taken for it; None where there is none.

    Seconds since the epoch as psutil gives them, or 0.0 where it is not installed and the process exists.
    """
    try:
        import psutil
    except ImportError:
        return 0.0 if Path(f"/proc/{pid}").exists() else None
    try:
        return round(psutil.Process(pid).create_time(), 2)
    except (psutil.Error, ValueError, TypeError):
        return None
