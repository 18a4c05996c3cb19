"""A bounded pool of verifier processes: a call that hangs, raises, crashes or eats memory costs its own sample and nothing else.

Why processes of our own rather than `multiprocessing`: its children import the parent's main module again, which in an actor
means importing ray, and its pools cannot say which call of a chunk was running when a process died. Here a child starts in a
few hundredths of a second and names the running call on a shared page, so the culprit is known at once, the chunk's other
calls are handed to a fresh process, and chunks of trivial calls cost a few microseconds per call.

One pool serves one thread at a time; `run` takes a lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from rayrl.config.schema import RewardComponent
from rayrl.errors import RoleFailed
from rayrl.rewards.process import START_HINT, Death, Suspect, VerifierProcess

_LARGEST_CHUNK = 64
_BARREN_LIMIT = 3


class Call(NamedTuple):
    """One verification: which component judges which completion."""

    component: str
    completion: str
    ground_truth: str | None
    extras: Mapping[str, Any] = {}
    """Those that `VerifierPool.extras` names for the component."""


class Outcome(NamedTuple):
    """``value`` is finite when ``error`` is empty, else None; a tuple holds one value per step of the completion."""

    value: float | tuple[float, ...] | None
    error: str
    latency_s: float


class VerifierPool:
    """Runs the verifiers of ``components`` in ``workers`` processes, each call within ``timeout_s`` seconds of wall time.

    ``memory_mib`` caps the address space of a process (Linux). Raises `ConfigError` when a verifier cannot be loaded or called
    as configured, `RoleFailed` when a process is not ready within ``start_s`` seconds.
    """

    def __init__(
        self,
        components: Mapping[str, RewardComponent],
        *,
        workers: int = 1,
        timeout_s: float = 5.0,
        memory_mib: int = 2048,
        start_s: float = 60.0,
    ) -> None:
        self._timeout_s, self._start_s = timeout_s, start_s
        self._setup = {
            "components": {name: (component.verifier, dict(component.args)) for name, component in components.items()},
            "memory_bytes": memory_mib * 2**20,
            "limit_s": timeout_s,
        }
        self._lock = threading.Lock()
        self._barren = 0
        self._processes: list[VerifierProcess] = []
        try:
            self._processes += [self._start() for _ in range(workers)]
            self.extras = self._processes[0].wait_ready()
        except BaseException:
            self._kill_all()
            raise

    def run(self, calls: Sequence[Call]) -> list[Outcome]:
        """One outcome per call, in order. Never raises for what a verifier does."""
        with self._lock:
            if not self._processes:
                raise RoleFailed("the verifier pool is closed", "Do not score after close().")
            try:
                return self._run(calls)
            except BaseException:  # an interrupted run leaves answers on the way that the next one must not read
                self._kill_all()
                raise

    def close(self) -> None:
        """Ends all processes, after a run in progress; calling it again does nothing."""
        with self._lock:
            self._kill_all()

    def _run(self, calls: Sequence[Call]) -> list[Outcome]:
        todo, outcomes = deque(range(len(calls))), [None] * len(calls)
        chunk_size = max(1, min(_LARGEST_CHUNK, math.ceil(len(calls) / (2 * len(self._processes)))))
        while todo or any(p.pending for p in self._processes):
            for slot, process in enumerate(self._processes):
                if todo and process.idle:
                    chunk = [todo.popleft() for _ in range(min(chunk_size, len(todo)))]
                    if not process.send(chunk, [tuple(calls[i]) for i in chunk]):
                        self._bury(slot, Suspect(None, 0.0), todo, outcomes)
            self._collect(todo, outcomes)
        return outcomes

    def _collect(self, todo: deque[int], outcomes: list) -> None:
        """Waits until a process answers, dies or runs out of time, and books what happened."""
        watched = [p for p in self._processes if not p.idle]
        if not watched:
            return
        ready = set(wait([p.connection for p in watched], timeout=max(0.0, min(p.deadline for p in watched) - time.monotonic())))
        for slot, process in enumerate(self._processes):
            if process.connection in ready:
                try:
                    for call, result in process.receive():
                        outcomes[call] = Outcome(*result)
                        self._barren = 0
                except Death:
                    self._bury(slot, process.suspect(), todo, outcomes)
            elif process in watched and (late := process.late()):
                self._bury(slot, late, todo, outcomes, f"timed out after {self._timeout_s:g} s")

    def _bury(self, slot: int, suspect: Suspect, todo: deque[int], outcomes: list, verdict: str = "") -> None:
        """Replaces a dead or late process. The call it was busy with failed; those it had not answered go back to the queue."""
        process = self._processes[slot]
        end = process.kill()
        if process.starting:
            raise RoleFailed(f"a verifier process was not ready within {self._start_s:g} s or died: {end}", START_HINT)
        if suspect.call is not None:
            outcomes[suspect.call] = Outcome(None, verdict or f"verifier process died: {end}", suspect.seconds)
        else:
            self._barren += 1
            if self._barren > _BARREN_LIMIT:
                hint = "Look for threads and exit hooks in the verifiers' modules."
                raise RoleFailed(f"verifier processes end between two calls: {end}", hint)
        todo.extendleft(reversed([call for call in process.pending if call != suspect.call]))
        self._processes[slot] = self._start()

    def _start(self) -> VerifierProcess:
        return VerifierProcess(self._setup, limit_s=self._timeout_s, start_s=self._start_s)

    def _kill_all(self) -> None:
        for process in self._processes:
            process.kill()
        self._processes.clear()
