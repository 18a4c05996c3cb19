"""An env worker: an autonomous loop that answers each leased ticket with one fragment.

One thread owns environments and policy (`run`). Leasing, storing and announcing happen in the same helper threads as a rollout
worker's. New weights are loaded between two steps, also within a fragment, whose spans say so: whoever publishes them does not wait
for its end. Other control calls (`rollout`, `reseed`) are executed between two fragments. The environments are made when
the first ticket is there: its ordinal seeds them, so that a replaced worker does not play the same episodes again. A synchronous run
that is resumed replays the episodes that were running (`replay`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from rayrl.agent_types import EpisodeRecord, Fragment, RunningEpisodes
from rayrl.data import fragment_arrow
from rayrl.errors import DeadlineExceeded
from rayrl.protocols import ReplayBuffer, Sampler, Store
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.commands import Commands
from rayrl.rollout.fragment_sampler import FragmentSampler
from rayrl.rollout.lanes import LeaseLane, Packed, PublishLane
from rayrl.rollout.sightings import Sightings
from rayrl.rollout.stats import RolloutStats
from rayrl.rollout.watched import MakeWatched, watch
from rayrl.telemetry.spans import Burst, SpanRecorder
from rayrl.types import FinishReason, GroupInfo, PromptTask, RewardRecord, RewardStatus, SyncReport, WeightUpdate

EXTRINSIC = "extrinsic"
"""Name of the reward component that comes with every fragment: the mean reward of a step."""
_MAX_BACKLOG = 2
"""Fragments waiting to be announced beyond which nothing new is leased."""


class EnvWorker:
    """Fulfils what the driver asks of a rollout worker."""

    def __init__(
        self,
        name: str,
        index: int,
        engine: AgentEngine,
        make_sampler: Callable[[int], Sampler],
        buffer: ReplayBuffer,
        store: Store,
        *,
        steps: int,
        seed: int,
        sightings: Sightings | None = None,
        make_watched: MakeWatched | None = None,
        call_s: float = 60.0,
        sync_s: float = 300.0,
    ) -> None:
        """``make_sampler(seed)`` builds the environments; ``steps`` is T; ``sightings`` tells an annotator what was shown;
        ``make_watched`` is for `watch`."""
        self.name, self._index = name, index
        self._engine, self._make_sampler, self._store = engine, make_sampler, store
        self._make_watched = make_watched
        self._steps, self._seed, self._sightings, self._call_s, self._sync_s = steps, seed, sightings, call_s, sync_s
        self._fragments: FragmentSampler | None = None
        self._stats = RolloutStats()
        self.spans = SpanRecorder(name)
        self._burst = Burst(self.spans, "sample")
        self._stopping, self._ended, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._commands = Commands(f"env worker {name}", self._wake)
        self._weights = Commands(f"env worker {name}", self._wake)
        self._leases = LeaseLane(buffer, name, index, self._wake, call_s)
        self._publish = PublishLane(buffer, name, self._pack, self._stats, call_s, self._refused)
        self._tickets: deque[PromptTask] = deque()
        self._undelivered: dict[int, bytes] = {}
        self._undelivered_lock = threading.Lock()

    def run(self) -> None:
        """Works until `stop`. An exception of an environment, or of a helper thread, ends it and is raised here."""
        self._leases.start()
        self._publish.start()
        try:
            while not self._stopping.is_set():
                self._weights.execute()
                self._commands.execute()
                self._leases.check()
                self._publish.check()
                self._tickets.extend(self._leases.take())
                self._leases.want(1 if len(self._tickets) < 2 and self._publish.backlog < _MAX_BACKLOG else 0)
                if self._tickets:
                    self._answer(self._tickets.popleft())
                else:
                    self._burst.end()
                    with self._stats.timed("wait_s"):
                        self._wake.wait(timeout=0.2)
                    self._wake.clear()
        finally:
            self._shut_down()
        self._publish.check()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ends `run` after the present fragment, which is still published."""
        self._stopping.set()
        self._wake.set()
        if self._leases.started and not self._ended.wait(timeout_s):
            raise DeadlineExceeded(f"env worker {self.name} did not stop within {timeout_s:.0f} s", "an environment is stuck; kill it")

    # ---- control, called from other threads ------------------------------------------------------------------------

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Loads them between two steps. Raises `WeightSyncError`."""
        buckets = [b if isinstance(b, np.ndarray) else self._store.get(b, timeout_s=self._sync_s) for b in update.buckets]
        fetched = replace(update, buckets=buckets)

        def load() -> SyncReport:
            with self._stats.timed("control_s"):
                report = self._engine.update_weights(fetched)
            self._stats.add(weight_updates=1, paused_s=report.paused_s)
            return report

        if not self._leases.started:  # a replacement gets its weights before its loop starts
            return load()
        return self._weights.call("weight update", load, self._sync_s)

    def rollout(self, tasks: Sequence[PromptTask], timeout_s: float) -> list[EpisodeRecord]:
        """One whole episode per task (evaluation), at the temperature of the first: 0 is greedy, else as in training.

        The environments begin new episodes afterwards: the running ones are dropped.
        """
        if not tasks:
            return []
        greedy, ordinal = tasks[0].sampling.temperature == 0, tasks[0].prompt.ordinal
        play = lambda: self._sampler(abs(ordinal)).play(len(tasks), greedy=greedy)
        return self._commands.call("evaluation", play, timeout_s)

    def watch(self, frames: int, seed: int, timeout_s: float) -> pa.RecordBatch:
        """One episode to look at, at most ``frames`` long, as an encoded fragment of one environment. What is trained on goes on after
        it as if nothing had been."""
        if self._make_watched is None:
            raise RuntimeError(f"env worker {self.name} was built without environments to watch")
        make = self._make_watched
        play = lambda: fragment_arrow.encode(watch(make(seed), self._engine, frames, seed))
        return self._commands.call("watched episode", play, timeout_s)

    def reseed(self, seed: int) -> None:
        own = int(np.random.SeedSequence([seed, self._index]).generate_state(1)[0])
        self._commands.call("reseed", lambda: self._engine.reseed(own), self._call_s)

    def running(self) -> RunningEpisodes | None:
        """Where its episodes are between two fragments; None before the first."""
        return self._commands.call("running episodes", lambda: self._fragments.running() if self._fragments else None, self._call_s)

    def replay(self, episodes: RunningEpisodes, timeout_s: float) -> None:
        """Goes on from there. Raises `ValueError` where the environments cannot."""
        self._commands.call("replay", lambda: self._sampler(0).replay(episodes), timeout_s)

    def repeat_texts(self) -> None:
        """The next fragment brings the texts of all messages seen so far: the learner that had them is gone."""
        self._commands.call("repeating texts", lambda: self._fragments.repeat_texts() if self._fragments else None, self._call_s)

    def stats(self) -> Mapping[str, float]:
        """Counters since the start: ``tokens`` are frames. See `RolloutStats`."""
        told = self._sightings.stats() if self._sightings else {}
        return self._stats.snapshot() | {"running": float(len(self._tickets)), "version": float(self._engine.version)} | told

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _answer(self, ticket: PromptTask) -> None:
        self._burst.go_on()
        with self._stats.timed("busy_s"):
            fragment = self._sampler(ticket.prompt.ordinal).collect(ticket.prompt.ordinal, self._weights.execute)
        self._stats.add(tokens=fragment.frames, completions=1)
        if self._sightings:
            self._sightings.tell(fragment)
        with self._undelivered_lock:
            texts, self._undelivered = self._undelivered | dict(fragment.texts), {}
        self._publish.put(replace(fragment, texts=texts))

    def _sampler(self, ordinal: int) -> FragmentSampler:
        if self._fragments is None:
            seed = np.random.SeedSequence([self._seed, self._index, ordinal]).generate_state(1)[0]
            self._fragments = FragmentSampler(self._make_sampler(int(seed)), self._engine, self._steps)
        return self._fragments

    def _refused(self, fragment: Fragment) -> None:
        """Somebody else answered the ticket: the texts go with the next fragment."""
        with self._undelivered_lock:
            self._undelivered |= dict(fragment.texts)

    def _pack(self, fragment: Fragment) -> Packed:
        batch = fragment_arrow.encode(fragment)
        frames = np.array([fragment.frames], np.int32)
        info = GroupInfo(
            ordinal=fragment.ordinal,
            payload=self._store.offer(batch),
            nbytes=batch.nbytes,
            lengths=frames,
            action_tokens=frames,
            oldest_version=fragment.oldest_version,
            newest_version=max(span.version for span in fragment.version_spans),
            finish_reasons=(str(FinishReason.ENV),),
        )
        return Packed(info, [[RewardRecord(EXTRINSIC, RewardStatus.SCORED, float(fragment.rewards.mean()), producer="environment")]])

    def _shut_down(self) -> None:
        self._weights.close()
        self._commands.close()
        try:
            self._leases.close()
            self._publish.close()
            if self._fragments is not None:
                self._fragments.close()
        finally:
            self._ended.set()
