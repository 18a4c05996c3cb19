"""Groups of running roles: `Pool` for workers that may come and go, `Ranks` for workers that only work all together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rayrl.deadlines import OPEN
from rayrl.errors import DeadlineExceeded, PayloadLost, RanksLost, RoleDied, RoleFailed
from rayrl.runtime.contract import Handle, Pending, RoleSpec, Runtime

_GLANCE_S = 0.2
"""While one rank is waited for, the others are looked at this often."""
_SETTLED_S = 30.0
"""A worker that lived this long has recovered: its next failure is its first again."""
_LONGEST_BACKOFF_S = 30.0
_AGAIN_S = 1.0
"""Until a new worker is offered weights again, when those that it was offered had died with the learner that made them."""


@dataclass
class _Place:
    """One worker of a pool: at work, or dead and its replacement under way."""

    spec: RoleSpec
    handle: Handle | None
    loop: Pending | None = None
    coming: Future | None = None
    failure: RoleFailed | DeadlineExceeded | None = None
    failures: int = 0
    """In a row, each before it had recovered from the one before."""
    since: float = 0.0
    """When it started to work, monotonic seconds."""
    leaving: float | None = None
    """It was asked to go: when its patience ends, monotonic seconds."""


class Pool:
    """Workers that run a loop of their own (``run()``), each replaced when it dies, while the others and the driver go on.

    ``on_lost(name)`` is called as soon as a worker is gone (its leases are released there), ``on_back(handle)`` before its
    replacement starts its loop (it gets the newest weights there; `PayloadLost` asks it to wait for newer ones), ``on_replaced(name,
    failure)`` when it works. A worker that fails more than ``restarts`` times in a row ends the run: `RoleFailed` with the last
    failure; when it only died, without a reason of its own, more than ``deaths`` times (somebody kills, and will stop killing).
    Before the second and later attempts in a row it waits ``backoff_s``, then twice as long, and so on.
    """

    def __init__(
        self,
        runtime: Runtime,
        specs: Sequence[RoleSpec],
        handles: Sequence[Handle],
        *,
        start_s: float,
        restarts: int = 3,
        deaths: int = 10,
        backoff_s: float = 1.0,
        on_lost: Callable[[str], None] = lambda name: None,
        on_back: Callable[[Handle], None] = lambda handle: None,
        on_replaced: Callable[[str, RoleFailed], None] = lambda name, failure: None,
    ) -> None:
        self._runtime, self._start_s, self._backoff_s = runtime, start_s, backoff_s
        self._limit, self._deaths = restarts, max(restarts, deaths)
        self._on_lost, self.on_back, self.on_replaced = on_lost, on_back, on_replaced
        self._places = [_Place(spec, handle) for spec, handle in zip(specs, handles, strict=True)]
        self._starter = ThreadPoolExecutor(max(8, len(self._places)), thread_name_prefix="replacement")
        self.may_shrink = False
        """A worker that cannot be started again is given up, as long as there are others."""
        self.on_joined: Callable[[str], None] = lambda name: None
        self.on_left: Callable[[str], None] = lambda name: None
        self.restarts = 0
        """Workers replaced so far."""

    @property
    def specs(self) -> list[RoleSpec]:
        return [place.spec for place in self._places]

    @property
    def size(self) -> int:
        """Workers that there should be."""
        return len(self._places)

    @property
    def handles(self) -> list[Handle]:
        """The workers that live, as far as `check` knows."""
        return [place.handle for place in self._places if place.handle is not None]

    def run(self) -> None:
        for place in self._places:
            self._begin(place)

    def grow(self, spec: RoleSpec) -> None:
        """One more worker, at work as soon as it is built; nobody waits for it."""
        place = _Place(spec, None)
        place.coming = self._starter.submit(self._start, spec, 0.0)
        self._places.append(place)

    def retire(self, name: str, patience_s: float) -> None:
        """A worker leaves: it finishes its step and hands over what is done; its leases go to others."""
        for place in self._places:
            if place.spec.name == name and place.handle is not None and place.leaving is None:
                place.leaving = time.monotonic() + patience_s
                place.handle.submit("stop")

    @property
    def starting(self) -> bool:
        return any(place.coming is not None for place in self._places)

    @property
    def names(self) -> list[str]:
        """Of the workers that there should be."""
        return [place.spec.name for place in self._places if place.leaving is None]

    def check(self) -> None:
        """Notices workers whose loop ended, has them replaced, and puts replacements to work. Cheap when nothing happened."""
        for place in list(self._places):
            if place.leaving is not None:
                if place.loop is None or place.loop.wait(0.0) or time.monotonic() > place.leaving:
                    self._let_go(place)
            elif place.coming is not None:
                if place.coming.done():
                    self._arrive(place)
            elif place.loop is not None and place.loop.wait(0.0):
                try:
                    place.loop.result(1.0)
                    raise RoleFailed(f"{place.spec.name} left its loop although nobody asked it to")
                except RoleFailed as failure:
                    self._lose(place, failure)

    def settle(self, timeout_s: float) -> None:
        """After a call on a worker failed: waits until its loop has ended too, and until anybody is left to work.

        Raises what ended it where it cannot be replaced, and `DeadlineExceeded` when the first replacement takes too long.
        """
        limit = time.monotonic() + timeout_s
        while not any(p.loop is not None and p.loop.wait(0.0) for p in self._places) and time.monotonic() < limit:
            if any(p.coming is not None for p in self._places):
                break
            time.sleep(0.05)
        self.check()
        self.wait_for_one()

    def wait_for_one(self) -> None:
        """Returns when at least one worker lives, at once for a pool that never had any."""
        limit = time.monotonic() + self._start_s
        while self._places and not self.handles:
            if time.monotonic() > limit:
                names = ", ".join(place.spec.name for place in self._places)
                raise DeadlineExceeded(f"no replacement of {names} was ready within {self._start_s:.0f} s", "raise deadlines.start_s")
            time.sleep(0.05)
            self.check()

    def submit(self, method: str, *args: Any) -> list[Pending]:
        return [handle.submit(method, *args) for handle in self.handles]

    def call(self, method: str, *args: Any, timeout_s: float) -> list[Any]:
        """One call on every worker that lives, side by side. When one dies meanwhile, `settle` and the answers of the others."""
        results = []
        for pending in self.submit(method, *args):
            try:
                results.append(pending.result(timeout_s))
            except RoleFailed:
                self.settle(timeout_s)
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
        """Asks every loop to end and waits for it; a worker that does not listen is ended, and no replacement is waited for."""
        limit = time.monotonic() + timeout_s
        self._starter.shutdown(wait=False, cancel_futures=True)
        for place in self._places:
            if place.handle is not None and not place.spec.passive:
                place.handle.submit("stop")
        for place in self._places:
            if place.handle is None or place.loop is None:
                continue
            if place.spec.passive:
                self._runtime.stop(place.handle)
                continue
            try:
                place.loop.result(max(0.1, limit - time.monotonic()))
            except (DeadlineExceeded, RoleFailed):
                self._runtime.stop(place.handle)
            place.loop = None

    # ---- inside

    def _begin(self, place: _Place) -> None:
        loop = place.handle.attend() if place.spec.passive else place.handle.submit("run")
        place.loop, place.since = loop, time.monotonic()

    def _lose(self, place: _Place, failure: RoleFailed) -> None:
        self._on_lost(place.spec.name)
        self._runtime.stop(place.handle)
        if time.monotonic() - place.since > _SETTLED_S:
            place.failures = 0
        place.handle, place.loop = None, None
        self._send_for(place, failure)

    def _let_go(self, place: _Place) -> None:
        self._places.remove(place)
        self._on_lost(place.spec.name)
        if place.handle is not None:
            self._runtime.stop(place.handle)
        self.on_left(place.spec.name)

    def _send_for(self, place: _Place, failure: RoleFailed | DeadlineExceeded) -> None:
        limit = self._deaths if isinstance(failure, RoleDied) else self._limit
        hopeless = place.failures >= limit or isinstance(failure, DeadlineExceeded)
        if self.may_shrink and hopeless and len(self._places) > 1:
            self._let_go(place)
            return
        if place.failures >= limit:
            raise RoleFailed(f"{failure.message} (after {place.failures} restarts in a row)", failure.hint) from failure
        wait_s = min(self._backoff_s * 2 ** min(place.failures - 1, 10), _LONGEST_BACKOFF_S) if place.failures else 0.0
        place.failures += 1
        place.failure = failure
        place.coming = self._starter.submit(self._start, place.spec, wait_s)

    def _start(self, spec: RoleSpec, wait_s: float) -> Handle:
        time.sleep(wait_s)
        return self._runtime.start([spec], self._start_s)[0]

    def _arrive(self, place: _Place) -> None:
        coming, place.coming = place.coming, None
        try:
            place.handle = coming.result(0.0)
            self.on_back(place.handle)
        except PayloadLost:
            place.coming, place.handle = self._starter.submit(_later, place.handle), None
            return
        except (RoleFailed, DeadlineExceeded) as failure:  # it could not be built, or died before it had the weights
            if place.handle is not None:
                self._runtime.stop(place.handle)
            place.handle = None
            self._send_for(place, failure)
            return
        self._begin(place)
        if place.failure is None:
            self.on_joined(place.spec.name)
            return
        self.restarts += 1
        self.on_replaced(place.spec.name, place.failure)


def _later(handle: Handle) -> Handle:
    time.sleep(_AGAIN_S)
    return handle


class Ranks:
    """Workers in lockstep: every call goes to all of them, and one that fails fails the call with `RanksLost`."""

    def __init__(self, runtime: Runtime, start: Callable[[], Sequence[Handle]], handles: Sequence[Handle]) -> None:
        """``start`` makes a whole new group."""
        self._runtime, self._start = runtime, start
        self.handles = list(handles)

    def restart(self) -> None:
        """Ends what is left of the group and starts another, which knows nothing yet."""
        for handle in self.handles:
            self._runtime.stop(handle)
        try:
            self.handles = list(self._start())
        except RoleDied as failure:
            raise RanksLost(failure.message, failure.hint) from failure

    def submit(self, method: str, *args: Any) -> Joint:
        return Joint([handle.submit(method, *args) for handle in self.handles])

    def observe(self, method: str) -> Joint:
        """See `Handle.observe`."""
        return Joint([handle.observe(method) for handle in self.handles])

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
        """Rank 0's answer. Raises `RanksLost` as soon as one rank failed, `DeadlineExceeded`, or what a rank raised."""
        return self.results(timeout_s)[0]

    def results(self, timeout_s: float) -> list[Any]:
        """The answer of every rank."""
        limit = time.monotonic() + timeout_s
        try:
            with OPEN.waiting(self._parts[0].deadline(timeout_s)) as deadline:
                while True:
                    waiting = [part for part in self._parts if not part.wait(0.0)]
                    failed = next((part for part in self._parts if part not in waiting and _failed(part)), None)
                    if failed is not None:
                        failed.result(0.0)
                    if not waiting:
                        return gather(self._parts, 0.0)
                    deadline.waited_for = ", ".join(part.deadline(timeout_s).waited_for for part in waiting)
                    if time.monotonic() > limit:
                        raise deadline.error()
                    waiting[0].wait(min(_GLANCE_S, max(0.0, limit - time.monotonic())))
        except RoleFailed as failure:
            raise RanksLost(failure.message, failure.hint) from failure


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
