"""The parent's side of one verifier process (`rewards/child.py`): start it, send a chunk, read results, know its culprit, kill it."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from rayrl.errors import RoleFailed
from rayrl.rewards.child import IDLE, Progress, Result

START_HINT = "Import less in the verifiers' modules, or raise rewards.memory_mib."
_TRANSFER_S = 10
_EXIT_S = 5.0


class Death(Exception):
    """The process ended, or no longer speaks the protocol."""


class Suspect(NamedTuple):
    """What a process was busy with when it was last seen."""

    call: int | None
    """Number of the running call; None when no call was running."""
    seconds: float


class VerifierProcess:
    """States: starting → idle ⇄ busy (``pending`` calls without an answer) → dead."""

    def __init__(self, setup: Mapping[str, Any], *, limit_s: float, start_s: float) -> None:
        self._limit_s = limit_s
        self._start_deadline = time.monotonic() + start_s
        self.starting = True
        self.pending: list[int] = []
        """Calls that were sent and not answered, in the order in which they run."""
        self._answered = 0
        self._contact = time.monotonic()
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            self._progress = Progress(mmap.mmap(file.fileno(), mmap.PAGESIZE))
            self._progress.rest()
            ours, theirs = socket.socketpair()
            limit = struct.pack("ll", _TRANSFER_S, 0)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)  # no transfer waits for ever
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self.connection = Connection(ours.detach())
            self.connection.send_bytes(pickle.dumps(dict(setup)))  # stays in the socket until the process reads it
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "rayrl.rewards.child", str(theirs.fileno()), str(file.fileno())],
                    pass_fds=(theirs.fileno(), file.fileno()),
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C is for the driver; and the whole group can be killed
                )

    @property
    def idle(self) -> bool:
        return not self.starting and not self.pending

    @property
    def deadline(self) -> float:
        """Monotonic time before which `late` need not be asked."""
        if self.starting:
            return self._start_deadline
        # a call may begin at any moment after this look at the page
        return min(self._call_deadline(*self._progress.read()), time.monotonic() + self._limit_s)

    def late(self) -> Suspect | None:
        """What the process should have finished by now; None while it is in time."""
        index, began = self._progress.read()
        deadline = self._start_deadline if self.starting else self._call_deadline(index, began)
        return self._suspect(index, began) if time.monotonic() >= deadline else None

    def suspect(self) -> Suspect:
        """What a process that died was busy with."""
        return self._suspect(*self._progress.read())

    def wait_ready(self) -> dict[str, tuple[str, ...]]:
        """Waits for the start; returns the extras that each component wants. Raises `ConfigError` or `RoleFailed`."""
        try:
            if self.connection.poll(max(0.0, self._start_deadline - time.monotonic())):
                return self._read_ready()
            reason = "it gave no sign in time"
        except Death:
            reason = self.kill()
        raise RoleFailed(f"a verifier process was not ready: {reason}", START_HINT)

    def send(self, chunk: Sequence[int], calls: Sequence[tuple]) -> bool:
        """Hands over calls (numbered ``chunk``); False when the process is no longer there to take them."""
        self.pending, self._answered, self._contact = list(chunk), 0, time.monotonic()
        try:
            self.connection.send_bytes(pickle.dumps(calls))
        except OSError:
            return False
        return True

    def receive(self) -> list[tuple[int, Result]]:
        """Results that arrived, with the numbers of their calls. Raises `Death`, or `ConfigError` from a start."""
        if self.starting:
            self._read_ready()
            return []
        results = self._read()
        answered, self.pending = self.pending[: len(results)], self.pending[len(results) :]
        self._answered += len(results)
        return list(zip(answered, results, strict=True))

    def kill(self) -> str:
        """Ends the process and everything it started; returns how it ended. Calling it again does nothing."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # reaped by somebody else in this process
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_EXIT_S)
            self.connection.close()
        code = self._process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _suspect(self, index: int, began: float) -> Suspect:
        position = index - self._answered
        if index == IDLE or not 0 <= position < len(self.pending):
            return Suspect(None, 0.0)
        return Suspect(self.pending[position], time.monotonic() - began)

    def _call_deadline(self, index: int, began: float) -> float:
        return self._contact + self._limit_s + _TRANSFER_S if index == IDLE else began + self._limit_s

    def _read_ready(self) -> dict[str, tuple[str, ...]]:
        status, value = self._read()
        if status == "refused":
            raise value
        self.starting = False
        return value

    def _read(self) -> Any:
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as e:
            raise Death from e
        finally:
            self._contact = time.monotonic()
