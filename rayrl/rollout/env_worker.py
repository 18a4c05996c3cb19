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
from rayrl.protocols import ReplayBuffer, Sampler, Store
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.fragment_sampler import FragmentSampler
from rayrl.rollout.lanes import Packed
from rayrl.rollout.looping import LoopingWorker
from rayrl.rollout.sightings import Sightings
from rayrl.rollout.watched import MakeWatched, watch
from rayrl.types import FinishReason, GroupInfo, PromptTask, RewardRecord, RewardStatus

EXTRINSIC = "extrinsic"
"""Name of the reward component that comes with every fragment: the mean reward of a step."""
_MAX_BACKLOG = 2
"""Fragments waiting to be announced beyond which nothing new is leased."""


class EnvWorker(LoopingWorker):
    """Fulfils what the driver asks of a rollout worker."""

    kind, activity, stuck = "env worker", "sample", "an environment is stuck; kill it"
    _engine: AgentEngine

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
        super().__init__(name, index, engine, buffer, store, self._pack, self._refused, call_s=call_s, sync_s=sync_s)
        self._make_sampler, self._make_watched = make_sampler, make_watched
        self._steps, self._seed, self._sightings = steps, seed, sightings
        self._weights = self._lane()  # executed between two steps, also within a fragment
        self._fragments: FragmentSampler | None = None
        self._tickets: deque[PromptTask] = deque()
        self._undelivered: dict[int, bytes] = {}
        self._undelivered_lock = threading.Lock()

    def _turn(self) -> None:
        self._weights.execute()
        self._tickets.extend(self._leases.take())
        self._leases.want(1 if len(self._tickets) < 2 and self._publish.backlog < _MAX_BACKLOG else 0)
        if self._tickets:
            self._answer(self._tickets.popleft())
        else:
            self._idle()

    # ---- control, called from other threads ------------------------------------------------------------------------

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

    def _wind_up(self) -> None:
        self._weights.close()
        super()._wind_up()
        if self._fragments is not None:
            self._fragments.close()
