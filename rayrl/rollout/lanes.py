"""The two helper threads of a rollout worker: what comes in (leases) and what goes out (finished groups).

A call to the buffer costs about a millisecond and may wait for seconds; the engine loop never makes one. A failure of a
lane is kept and raised by `check`, which the loop calls between two steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rayrl.data.arrow import encode
from rayrl.errors import DeadlineExceeded, RoleDied
from rayrl.protocols import ReplayBuffer, Store
from rayrl.rollout.episodes import Episode
from rayrl.rollout.stats import RolloutStats
from rayrl.types import GroupInfo, IntArray, PromptTask, RewardRecord, Trajectory

Records = Sequence[Sequence[RewardRecord]]
"""One list of records per sample of a group."""

T = TypeVar("T")

_BACK_S, _AGAIN_S = 120.0, 0.5
"""How long a worker waits for a new buffer when the one it knew died: the driver has to notice, start it and tell it what it knew. And
how often it tries."""
LEASE_WAIT_S = 1.0
"""Long poll: how long the buffer may hold an unanswerable lease request. Also the most that closing waits for it."""


def patiently(call: Callable[[], T]) -> T:
    """A call to the buffer, or to another role that a worker cannot do without; when that died, again until another one answers."""
    limit = time.monotonic() + _BACK_S
    while True:
        try:
            return call()
        except RoleDied:
            if time.monotonic() > limit:
                raise
            time.sleep(_AGAIN_S)


class _Lane:
    """A daemon thread whose first exception is kept for `check`."""

    def __init__(self, name: str, call_s: float) -> None:
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)
        self._call_s = call_s
        self._error: BaseException | None = None
        self.started = False

    def start(self) -> None:
        self._thread.start()
        self.started = True

    def check(self) -> None:
        """Raises what ended the lane."""
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        self._thread.join(timeout=self._call_s)
        if self._thread.is_alive():
            raise DeadlineExceeded(f"{self._thread.name} did not end within {self._call_s:.0f} s", "a call to buffer or store is stuck")

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def _work(self) -> None:
        raise NotImplementedError


class LeaseLane(_Lane):
    """Keeps one lease request in flight while the worker wants prompts; ``wake`` is set when some arrived."""

    def __init__(self, buffer: ReplayBuffer, worker: str, index: int, wake: threading.Event, call_s: float) -> None:
        super().__init__(f"{worker}-lease", call_s)
        self._buffer, self._worker, self._index, self._wake = buffer, worker, index, wake
        self._changed = threading.Condition()
        self._wanted = 0
        self._closing = False
        self._ready: deque[PromptTask] = deque()

    def want(self, groups: int) -> None:
        """Asks for up to ``groups`` prompts (0: for none) as soon as the previous ones have been taken."""
        with self._changed:
            self._wanted = 0 if self._ready else groups
            self._changed.notify()

    def take(self) -> list[PromptTask]:
        """What has arrived since the last call."""
        with self._changed:
            tasks = list(self._ready)
            self._ready.clear()
        return tasks

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted > 0 or self._closing, timeout=LEASE_WAIT_S)
                wanted, closing = self._wanted, self._closing
            if closing:
                return
            if wanted == 0:
                continue
            tasks = patiently(lambda: self._buffer.lease_prompts(self._worker, self._index, wanted, LEASE_WAIT_S))  # noqa: B023
            if tasks:
                with self._changed:
                    self._ready.extend(tasks)
                    self._wanted = 0
                self._wake.set()

    def _guarded(self) -> None:
        super()._guarded()
        self._wake.set()


class Packed(NamedTuple):
    """A finished group, ready to be announced."""

    info: GroupInfo
    records: Records | None = None
    """Rewards that come with it; None where scorers give them."""


class PublishLane(_Lane):
    """Turns finished groups into Arrow batches in the store and announces all that are ready in one call to the buffer."""

    def __init__(
        self,
        buffer: ReplayBuffer,
        worker: str,
        pack: Callable[[Any], Packed],
        stats: RolloutStats,
        call_s: float,
        on_refused: Callable[[Any], None] = lambda item: None,
    ) -> None:
        """``on_refused``: told of each item that the buffer did not take."""
        super().__init__(f"{worker}-publish", call_s)
        self._buffer, self._worker, self._pack, self._stats, self._on_refused = buffer, worker, pack, stats, on_refused
        self._queue: SimpleQueue[Any] = SimpleQueue()
        encode([])  # pyarrow imports pandas at its first conversion, seconds that the first group must not pay

    def put(self, finished: Any) -> None:
        """A finished group, as ``pack`` takes it."""
        self._queue.put(finished)

    def fail(self, ordinal: int, error: BaseException) -> None:
        """Gives a prompt back to the buffer: this attempt failed."""
        self._stats.add(failed_episodes=1)
        self._queue.put((ordinal, f"{type(error).__name__}: {error}"))

    @property
    def backlog(self) -> int:
        """Groups finished and not yet announced."""
        return self._queue.qsize()

    def close(self) -> None:
        """Publishes what is finished, then ends."""
        self._queue.put(None)
        self._join()

    def _work(self) -> None:
        while True:
            items: list[Any] = []
            try:
                items.append(self._queue.get(timeout=LEASE_WAIT_S))
                while items[-1] is not None:
                    items.append(self._queue.get_nowait())
            except Empty:
                if not items:
                    continue
            ending = items[-1] is None
            for item in items:
                if isinstance(item, tuple):
                    patiently(lambda: self._buffer.fail_prompts(self._worker, [item[0]], item[1]))  # noqa: B023
            finished = [item for item in items if item is not None and not isinstance(item, tuple)]
            if finished:
                accepted = patiently(lambda: self._hand_over(finished))  # noqa: B023
                self._stats.add(groups=len(finished), groups_refused=len(finished) - sum(accepted))
                for item, taken in zip(finished, accepted, strict=True):
                    if not taken:
                        self._on_refused(item)
            if ending:
                return

    def _hand_over(self, finished: Sequence[Any]) -> list[bool]:
        """Packed anew in each attempt: a buffer that died may have taken the payloads with it."""
        packed = [self._pack(item) for item in finished]
        records = {p.info.ordinal: p.records for p in packed if p.records is not None}
        return self._buffer.put_groups(self._worker, [p.info for p in packed], *([records] if records else []))


class EpisodePacker:
    """Finished episodes of one prompt; their rewards come later."""

    def __init__(self, store: Store, decode: Callable[[IntArray], str]) -> None:
        self._store, self._decode = store, decode

    def __call__(self, episodes: Sequence[Episode]) -> Packed:
        trajectories = [e.trajectory(self._decode) for e in episodes]
        batch = encode(trajectories)
        return Packed(group_info(trajectories, self._store.offer(batch), batch.nbytes))


def group_info(trajectories: Sequence[Trajectory], payload: object, nbytes: int) -> GroupInfo:
    """What the buffer is told of a group whose record batch is ``payload``."""
    versions = [s.version for t in trajectories for s in t.version_spans]
    return GroupInfo(
        ordinal=trajectories[0].ordinal,
        payload=payload,
        nbytes=nbytes,
        lengths=np.array([t.num_tokens for t in trajectories], dtype=np.int32),
        action_tokens=np.array([t.num_action_tokens for t in trajectories], dtype=np.int32),
        oldest_version=min(versions),
        newest_version=max(versions),
        task=trajectories[0].task,
        finish_reasons=tuple(str(t.finish_reason) for t in trajectories),
    )
