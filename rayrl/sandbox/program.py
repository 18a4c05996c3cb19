"""What to run, what it may use, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

PYTHON = "python3"
"""As the first word of ``argv``: the interpreter of the sandbox, with the standard library alone."""
_SHELL_SIGNAL_BASE = 128


@dataclass(frozen=True)
class Limits:
    """Bounds of one program. Address space and file size are per process and per file: times ``processes`` is the worst case."""

    time_s: float = 2.0
    """Wall time; the processor time of each process is bounded by a little more."""
    memory_mib: int = 256
    """Address space of each process."""
    processes: int = 8
    """Processes and threads at the same time."""
    output_kib: int = 64
    """Standard output and standard error, each."""
    file_mib: int = 16
    """Largest file; with bubblewrap also all files together."""
    open_files: int = 64


@dataclass(frozen=True)
class Program:
    argv: Sequence[str]
    """Command and arguments; the command `PYTHON` is the sandbox's own interpreter."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """Name -> content, in the working directory. The program may change its copies."""
    stdin: str | bytes = b""
    read_only: Sequence[str] = ()
    """Absolute paths of the host that it may read, at the same place."""


class Reason(StrEnum):
    EXITED = "exited"
    SIGNALLED = "signalled"
    TIME = "time"
    OUTPUT = "output"


@dataclass(frozen=True)
class Ended:
    reason: Reason
    code: int
    """Exit status, or number of the signal."""
    stdout: bytes
    stderr: bytes
    seconds: float
    limits: Limits

    @property
    def ok(self) -> bool:
        return self.reason is Reason.EXITED and self.code == 0

    @property
    def violated(self) -> str:
        """Which limit ended it, in words; empty when it ended by itself, however badly."""
        if self.reason is Reason.TIME or (self.reason is Reason.SIGNALLED and self.code == signal.SIGXCPU):
            return f"time limit of {self.limits.time_s:g} s"
        if self.reason is Reason.OUTPUT:
            return f"output limit of {self.limits.output_kib} KiB"
        if self.reason is Reason.SIGNALLED and self.code == signal.SIGXFSZ:
            return f"file limit of {self.limits.file_mib} MiB"
        if self.code != 0 and self.stderr.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"):
            return f"memory limit of {self.limits.memory_mib} MiB"
        return ""

    def describe(self) -> str:
        """One line: how it ended, and the last line of what it complained."""
        if self.violated:
            return self.violated
        last = (self.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1][:200]
        how = f"exit code {self.code}" if self.reason is Reason.EXITED else f"signal {_signal_name(self.code)}"
        return f"{how}: {last}" if last else how


def ending(status: int) -> tuple[Reason, int]:
    """From an exit status in the shell's convention (128 + n is signal n; negative as `subprocess` says it) to reason and code."""
    if status < 0:
        return Reason.SIGNALLED, -status
    if _SHELL_SIGNAL_BASE < status <= _SHELL_SIGNAL_BASE + signal.NSIG:
        return Reason.SIGNALLED, status - _SHELL_SIGNAL_BASE
    return Reason.EXITED, status


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
