"""Groups of running roles: `Pool` for workers that may come and go, `Ranks` for workers that only work all together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.runtime.contract import Handle, Pending, RoleSpec, Runtime

_GLANCE_S = 0.2
"""While one rank is waited for, the others are looked at this often."""


class Pool:
    """Workers that run a loop of their own (``run()``), each replaced when it dies.

    ``on_lost(name)`` is called as soon as a worker is gone (its leases are released there), ``on_back(handle)`` before its
    replacement starts its loop (it gets the newest weights there), ``on_replaced(name, failure)`` when it works. A worker that
    fails more often than ``restarts`` times ends the run: `RoleFailed` with the last failure.
    """

    def __init__(
        self,
        runtime: Runtime,
        specs: Sequence[RoleSpec],
        handles: Sequence[Handle],
        *,
        start_s: float,
        restarts: int = 3,
        on_lost: Callable[[str], None] = lambda name: None,
        on_back: Callable[[Handle], None] = lambda handle: None,
        on_replaced: Callable[[str, RoleFailed], None] = lambda name, failure: None,
    ) -> None:
        self._runtime, self._specs, self._start_s, self._limit = runtime, list(specs), start_s, restarts
        self._on_lost, self.on_back, self.on_replaced = on_lost, on_back, on_replaced
        self.handles = list(handles)
        self.restarts = [0] * len(handles)
        self._loops: list[Pending] = []

    def run(self) -> None:
        self._loops = [handle.submit("run") for handle in self.handles]

    def check(self) -> None:
        """Replaces the workers whose loop ended with a failure. Cheap when nothing happened."""
        for i, loop in enumerate(self._loops):
            if not loop.wait(0.0):
                continue
            try:
                loop.result(1.0)
                raise RoleFailed(f"{self.handles[i].name} left its loop although nobody asked it to")
            except RoleFailed as failure:
                self._replace(i, failure)

    def settle(self, timeout_s: float) -> None:
        """After a call on a worker failed: waits until its loop has ended too, and replaces it (or raises what ended it)."""
        limit = time.monotonic() + timeout_s
        while not any(loop.wait(0.0) for loop in self._loops) and time.monotonic() < limit:
            time.sleep(0.05)
        self.check()

    def submit(self, method: str, *args: Any) -> list[Pending]:
        return [handle.submit(method, *args) for handle in self.handles]

    def call(self, method: str, *args: Any, timeout_s: float) -> list[Any]:
        """One call on every worker, side by side; results in order. A worker that dies meanwhile is replaced and asked again, once."""
        results = []
        for i, pending in enumerate(self.submit(method, *args)):
            try:
                results.append(pending.result(timeout_s))
            except RoleFailed:
                self.settle(timeout_s)
                results.append(self.handles[i].submit(method, *args).result(timeout_s))
        return results

    def observe(self, method: str, timeout_s: float) -> list[Any]:
        """Counters of every worker that lives, beside its work; see `Handle.observe`."""
        found = []
        for pending in [handle.observe(method) for handle in self.handles]:
            try:
                found.append(pending.result(timeout_s))
            except RoleFailed:  # `check` finds out that it died, and replaces it
                continue
        return found

    def stop(self, timeout_s: float) -> None:
        """Asks every loop to end and waits for it; a worker that does not listen is ended."""
        limit = time.monotonic() + timeout_s
        for handle in self.handles:
            handle.submit("stop")
        for handle, loop in zip(self.handles, self._loops, strict=True):
            try:
                loop.result(max(0.1, limit - time.monotonic()))
            except (DeadlineExceeded, RoleFailed):
                self._runtime.stop(handle)
        self._loops = []

    def _replace(self, i: int, failure: RoleFailed) -> None:
        self._on_lost(self.handles[i].name)
        if self.restarts[i] >= self._limit:
            raise RoleFailed(f"{failure.message} (after {self._limit} restarts)", failure.hint) from failure
        self.restarts[i] += 1
        self._runtime.stop(self.handles[i])
        self.handles[i] = self._runtime.start([self._specs[i]], self._start_s)[0]
        self.on_back(self.handles[i])
        self._loops[i] = self.handles[i].submit("run")
        self.on_replaced(self.handles[i].name, failure)


class Ranks:
    """Workers in lockstep: every call goes to all of them, and one that fails fails the call."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.handles = list(handles)

    def submit(self, method: str, *args: Any) -> Joint:
        return Joint([handle.submit(method, *args) for handle in self.handles])

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        """Rank 0's result, once all ranks are done."""
        return self.submit(method, *args).result(timeout_s)


class Joint:
    """One call under way on all ranks."""

    def __init__(self, parts: Sequence[Pending]) -> None:
        self._parts = list(parts)

    def done(self) -> bool:
        """True also when one rank has failed, so that the failure is seen while the others still wait for it."""
        states = [part.wait(0.0) for part in self._parts]
        return all(states) or any(done and _failed(part) for done, part in zip(states, self._parts, strict=True))

    def result(self, timeout_s: float) -> Any:
        limit = time.monotonic() + timeout_s
        while True:
            waiting = [part for part in self._parts if not part.wait(0.0)]
            failed = next((part for part in self._parts if part not in waiting and _failed(part)), None)
            if failed is not None:
                failed.result(0.0)
            if not waiting or time.monotonic() > limit:
                return gather(self._parts, 0.0)[0]
            waiting[0].wait(min(_GLANCE_S, max(0.0, limit - time.monotonic())))

    def results(self, timeout_s: float) -> list[Any]:
        """The answer of every rank."""
        self.result(timeout_s)
        return gather(self._parts, 0.0)


def gather(parts: Sequence[Pending], timeout_s: float) -> list[Any]:
    """Results of calls that run side by side, under one common limit."""
    limit = time.monotonic() + timeout_s
    return [part.result(max(0.0, limit - time.monotonic())) for part in parts]


def _failed(part: Pending) -> bool:
    try:
        part.result(0.0)
    except DeadlineExceeded:
        return False
    except Exception:
        return True
    return False
