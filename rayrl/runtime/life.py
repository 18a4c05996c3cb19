"""A sign of life of each role, on disk: who it is, what memory it holds, what it raised. What is there when it died tells why.

``<run>/logs/<role>.life`` holds one JSON line that is written over every second. A replacement writes over the file of the process
that it replaces, so that what lies there belongs to the roles of now.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrl.telemetry.process import available_bytes, tree_bytes

BEAT_S = 1.0
_SILENT_S = 5 * BEAT_S
"""A role of another machine that was silent for so long is taken for dead."""
_SIZE, _LONGEST = 1024, 500
_FATAL = {"Segmentation fault": "SIGSEGV", "Aborted": "SIGABRT", "Bus error": "SIGBUS", "Floating point exception": "SIGFPE",
          "Illegal instruction": "SIGILL"}  # fmt: skip


class Life:
    """The writer, in the role's process. A thread of its own beats."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        self._lock, self._peak = threading.Lock(), 0
        self._facts: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "began": time.time(), "oom_kills": _oom_kills()}
        self.beat()
        atexit.register(self.tell, ended="it left by itself")
        threading.Thread(target=self._go_on, name="life", daemon=True).start()

    def tell(self, **facts: Any) -> None:
        """E.g. ``raised``: written at once."""
        self._facts |= {key: str(value)[:_LONGEST] for key, value in facts.items()}
        self.beat()

    def beat(self) -> None:
        held = tree_bytes()
        self._peak = max(self._peak, held)
        now = {"at": time.time(), "rss_bytes": held, "peak_bytes": self._peak, "node_free_bytes": available_bytes()}
        with self._lock:
            os.pwrite(self._file, json.dumps(self._facts | now).encode()[:_SIZE].ljust(_SIZE), 0)

    def _go_on(self) -> None:
        while True:
            time.sleep(BEAT_S)
            try:
                self.beat()
            except OSError:  # the disk is full: the last sign stays
                continue


@dataclass(frozen=True)
class Sign:
    """What a role's file says."""

    role: str
    facts: dict[str, Any]
    log: Path

    @property
    def dead(self) -> bool:
        if self.facts["host"] == socket.gethostname():
            return not _runs(self.facts["pid"])
        return time.time() - self.facts["at"] > _SILENT_S

    @property
    def failed(self) -> bool:
        return self.dead or "raised" in self.facts

    @property
    def failed_at(self) -> float:
        return float(self.facts.get("raised_at", self.facts["at"]))

    def cause(self, said: str = "") -> str:
        """How it ended, from what it left behind. ``said``: what Ray told of its death.

        Nobody but its parent is told the signal that ended a process: where it left no last word, it was SIGKILL.
        """
        if "raised" in self.facts:
            return f"raised {self.facts['raised']}"
        if "low on memory" in said or "OutOfMemory" in said:
            return "killed by Ray: its node ran low on memory"
        tail = self.log.read_text(errors="replace")[-20_000:] if self.log.is_file() else ""
        tail = tail.rpartition(f"pid {self.facts['pid']} on ")[2]
        fatal = re.search(r"Fatal Python error: ([A-Z][a-z ]+)", tail)
        if fatal:
            return f"{_FATAL.get(fatal[1].strip(), 'a fatal signal')}: {fatal[1].strip()}"
        if "ended" in self.facts:
            return str(self.facts["ended"])
        here = self.facts["host"] == socket.gethostname()
        if here and _oom_kills() > self.facts.get("oom_kills", 0):
            return "SIGKILL by the kernel: out of memory"
        return "SIGKILL: it left no last word"

    def to_json(self, said: str = "") -> dict[str, Any]:
        lines = self.log.read_text(errors="replace").splitlines()[-50:] if self.log.is_file() else []
        held = {key: self.facts[key] for key in ("rss_bytes", "peak_bytes", "node_free_bytes")}
        told = {"role": self.role, "node": self.facts["host"], "pid": self.facts["pid"], "cause": self.cause(said)}
        return told | {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.failed_at)), "memory": held, "log": lines}


def read(logs: Path) -> list[Sign]:
    """The signs of all roles whose files can be read here."""
    found = []
    for path in sorted(logs.glob("*.life")):
        try:
            facts = json.loads(path.read_text())
        except ValueError:  # caught in the middle of a beat
            continue
        found.append(Sign(path.stem, facts, path.with_suffix(".log")))
    return found


def first_failure(logs: Path) -> Sign | None:
    """Of the roles that are dead or raised something, and were not replaced, the one that was first."""
    return min((sign for sign in read(logs) if sign.failed), key=lambda sign: sign.failed_at, default=None)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _oom_kills() -> int:
    """Processes of this machine's control group that the kernel ended for memory; 0 where it does not tell."""
    for file, key in ((Path("/sys/fs/cgroup/memory.events"), "oom_kill"), (Path("/proc/vmstat"), "oom_kill")):
        try:
            return int(dict(line.split() for line in file.read_text().splitlines())[key])
        except (OSError, KeyError, ValueError):
            continue
    return 0
