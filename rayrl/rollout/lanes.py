"""The two helper threads of a rollout worker: what comes in (leases) and what goes out (finished groups).

A call to the buffer costs about a millisecond and may wait for seconds; the engine loop never makes one. A failure of a
lane is kept and raised by `check`, which the loop calls between two steps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np

from rayrl.data.arrow import encode
from rayrl.errors import DeadlineExceeded
from rayrl.protocols import ReplayBuffer, Store
from rayrl.rollout.episodes import Episode
from rayrl.rollout.stats import RolloutStats
from rayrl.types import GroupInfo, IntArray, PromptTask, Trajectory

LEASE_WAIT_S = 1.0
"""Long poll: how long the buffer may hold an unanswerable lease request. Also the most that closing waits for it."""


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
            tasks = self._buffer.lease_prompts(self._worker, self._index, wanted, LEASE_WAIT_S)
            if tasks:
                with self._changed:
                    self._ready.extend(tasks)
                    self._wanted = 0
                self._wake.set()

    def _guarded(self) -> None:
        super()._guarded()
        self._wake.set()


class PublishLane(_Lane):
    """Turns finished groups into Arrow batches in the store and announces all that are ready in one call to the buffer."""

    def __init__(
        self, buffer: ReplayBuffer, store: Store, worker: str, decode: Callable[[IntArray], str], stats: RolloutStats, call_s: float
    ) -> None:
        super().__init__(f"{worker}-publish", call_s)
        self._buffer, self._store, self._worker, self._decode, self._stats = buffer, store, worker, decode, stats
        self._queue: SimpleQueue[Sequence[Episode] | tuple[int, str] | None] = SimpleQueue()
        encode([])  # pyarrow imports pandas at its first conversion, seconds that the first group must not pay

    def put(self, episodes: Sequence[Episode]) -> None:
        """A finished group."""
        self._queue.put(episodes)

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
            items = [self._queue.get()]
            try:
                while items[-1] is not None:
                    items.append(self._queue.get_nowait())
            except Empty:
                pass
            ending = items[-1] is None
            for item in items:
                if isinstance(item, tuple):
                    self._buffer.fail_prompts(self._worker, [item[0]], item[1])
            groups = [self._store_group(item) for item in items if isinstance(item, list)]
            if groups:
                accepted = self._buffer.put_groups(self._worker, groups)
                self._stats.add(groups=len(groups), groups_refused=len(groups) - sum(accepted))
            if ending:
                return

    def _store_group(self, episodes: Sequence[Episode]) -> GroupInfo:
        trajectories = [e.trajectory(self._decode) for e in episodes]
        batch = encode(trajectories)
        return group_info(trajectories, self._store.offer(batch), batch.nbytes)


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
