"""A rollout worker: an autonomous loop that turns leased prompts into finished groups.

One thread owns the engine (`run`). Whatever can wait for somebody else happens in helper threads, so that the engine never
does: one keeps a lease request in flight at the buffer, one encodes, stores and announces finished groups, and slow
environments answer in a small pool. Control calls (`update_weights`, `generate`, `reseed`) come from other threads, are
executed between two engine steps and block only their caller.

With ``lease_all`` (synchronous mode) everything that is leased is added before the first step and environments answer
inline, so that batch composition, and with it every sampled token, depends on nothing but seeds and weights.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.protocols import Engine, ReplayBuffer, Store, TextEnv
from rayrl.rollout.episodes import Episode
from rayrl.rollout.lanes import LeaseLane, PublishLane
from rayrl.rollout.stats import RolloutStats
from rayrl.types import FloatArray, GenerationRequest, GenerationResult, IntArray, Prompt, PromptTask, SyncReport, WeightUpdate

Decode = Callable[[IntArray], str]
Encode = Callable[[str], Sequence[int]]
EnvFactory = Callable[[Prompt], TextEnv]
T = TypeVar("T")

MAX_BACKLOG = 64
"""Finished groups waiting to be announced beyond which nothing new is leased."""


class RolloutWorker:
    """``decode`` makes text views; ``encode`` (needed with ``env_factory``) tokenises observations without special tokens.

    ``call_s`` limits an environment's answer and every control call but a weight update, which has ``sync_s``; both in seconds.
    """

    def __init__(
        self,
        name: str,
        index: int,
        engine: Engine,
        buffer: ReplayBuffer,
        store: Store,
        *,
        decode: Decode,
        encode: Encode | None = None,
        env_factory: EnvFactory | None = None,
        max_turns: int = 1,
        max_length: int,
        max_running: int,
        lease_all: bool = False,
        env_threads: int = 4,
        call_s: float = 60.0,
        sync_s: float = 300.0,
    ) -> None:
        if env_factory is not None and encode is None:
            raise ValueError("env_factory needs encode: observations enter the sequence as token ids")
        self.name = name
        self._engine, self._store, self._decode = engine, store, decode
        self._encode, self._env_factory = encode, env_factory
        self._max_turns, self._max_length, self._max_running = max_turns if env_factory else 1, max_length, max_running
        self._lease_all, self._call_s, self._sync_s = lease_all, call_s, sync_s
        self._stats = RolloutStats()
        self._stopping = threading.Event()
        self._closed = False
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._commands: SimpleQueue[tuple[Callable[[], Any], Future]] = SimpleQueue()
        self._observed: SimpleQueue[tuple[Episode, tuple[str | None, bool] | BaseException]] = SimpleQueue()
        self._env_pool = ThreadPoolExecutor(env_threads, f"{name}-env") if env_factory and not lease_all else None
        self._leases = LeaseLane(buffer, name, index, self._wake, call_s)
        self._publish = PublishLane(buffer, store, name, decode, self._stats, call_s)
        self._group_size = 0
        self._groups: dict[int, _Group] = {}
        self._episodes: dict[str, Episode] = {}
        self._asked: dict[str, float] = {}  # episodes whose environment is thinking -> since when; oldest first
        self._evaluations: dict[str, _Evaluation] = {}
        self._evaluation_count = 0

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until `stop`. An exception of the engine, or of a helper thread, ends it and is raised here."""
        self._leases.start()
        self._publish.start()
        try:
            while not self._stopping.is_set():
                self._execute_commands()
                self._leases.check()
                self._publish.check()
                self._start_leased()
                self._take_observations()
                if self._engine.num_running == 0:
                    with self._stats.timed("wait_s"):
                        self._wake.wait(timeout=0.2)
                    self._wake.clear()
                    continue
                with self._stats.timed("busy_s"):
                    results = self._engine.step()
                for result in results:
                    self._finish_turn(result)
        finally:
            self._shut_down()
        self._publish.check()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ends `run` after the current step; finished groups are still published, running ones are abandoned."""
        self._stopping.set()
        self._wake.set()
        if self._leases.started and not self._ended.wait(timeout_s):
            raise DeadlineExceeded(f"rollout worker {self.name} did not stop within {timeout_s:.0f} s", "its engine step is stuck; kill it")

    # ---- control, called from other threads ------------------------------------------------------------------------

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Fetches the buckets while generation goes on, then loads them between two steps. Raises `WeightSyncError`."""
        buckets = [b if isinstance(b, np.ndarray) else self._store.get(b, timeout_s=self._sync_s) for b in update.buckets]
        fetched = replace(update, buckets=buckets)

        def load() -> SyncReport:
            with self._stats.timed("control_s"):
                report = self._engine.update_weights(fetched)
            self._stats.add(weight_updates=1, paused_s=report.paused_s)
            return report

        return self._between_steps("weight update", load, self._sync_s)

    def generate(self, requests: Sequence[GenerationRequest], timeout_s: float) -> list[GenerationResult]:
        """Completions in the order of ``requests``, sampled along with the training generations. Ids are the caller's own.

        Raises `ValueError` for a prompt that does not fit and `DeadlineExceeded` after ``timeout_s`` (the requests are aborted).
        """
        if not requests:
            return []
        deadline = time.monotonic() + timeout_s
        job = self._between_steps("evaluation", lambda: self._start_evaluation(requests), timeout_s)
        try:
            return job.done.result(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            self._between_steps("abort of an evaluation", lambda: self._abandon_evaluation(job), self._call_s)
            raise DeadlineExceeded(
                f"evaluation on {self.name}: {job.missing} of {len(requests)} completions missing after {timeout_s:.0f} s",
                "raise deadlines.generate_s or shorten rollout.sampling.max_tokens",
            ) from None

    def reseed(self, seed: int) -> None:
        self._between_steps("reseed", lambda: self._engine.reseed(seed), self._call_s)

    def logprobs(self, token_ids: IntArray) -> FloatArray:
        """See `Engine.logprobs`."""
        return self._between_steps("log-probs", lambda: self._engine.logprobs(token_ids), self._call_s)

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, seconds by activity, and gauges: see `RolloutStats`."""
        return self._stats.snapshot() | {"running": float(self._engine.num_running), "version": float(self._engine.version)}

    def _between_steps(self, what: str, call: Callable[[], T], timeout_s: float) -> T:
        future: Future = Future()
        self._commands.put((call, future))
        self._wake.set()
        if self._closed:
            self._reject_commands()
        try:
            return future.result(timeout=timeout_s)
        except TimeoutError:
            if future.cancel() or not future.done():
                raise DeadlineExceeded(
                    f"{what} waited {timeout_s:.0f} s for rollout worker {self.name}", "its loop is not running, or an engine step is stuck"
                ) from None
            raise

    def _execute_commands(self) -> None:
        while True:
            try:
                call, future = self._commands.get_nowait()
            except Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:  # belongs to the caller, who is waiting for it
                future.set_exception(error)

    # ---- training episodes -------------------------------------------------------------------------------------------

    def _start_leased(self) -> None:
        for task in self._leases.take():
            self._start_group(task)
        idle = not self._episodes and not self._evaluations
        if self._lease_all:
            self._leases.want(10**6 if idle else 0)
        elif self._publish.backlog >= MAX_BACKLOG:
            self._leases.want(0)
        else:
            self._leases.want(self._room())

    def _room(self) -> int:
        """Groups that would fill the engine, rounded up; one until the first group has shown its size."""
        free = self._max_running - len(self._episodes)
        return 0 if free <= 0 else 1 if not self._group_size else -(-free // self._group_size)

    def _start_group(self, task: PromptTask) -> None:
        if task.prompt.ordinal in self._groups:  # our lease expired and came back: the running group serves the new one
            return
        self._group_size = task.n
        group = _Group(task, [Episode(task, i, max_turns=self._max_turns, max_length=self._max_length) for i in range(task.n)])
        try:
            if self._env_factory is not None:
                group.envs = {e.id: self._env_factory(task.prompt) for e in group.episodes}
            self._engine.add([e.request() for e in group.episodes])
        except Exception as error:
            self._publish.fail(task.prompt.ordinal, error)
            return
        self._groups[task.prompt.ordinal] = group
        self._episodes.update((e.id, e) for e in group.episodes)

    def _finish_turn(self, result: GenerationResult) -> None:
        self._stats.add(tokens=result.token_ids.shape[0], completions=1)
        key = result.id.rpartition("/")[0]
        if (job := self._evaluations.get(key)) is not None:
            if job.take(result):
                del self._evaluations[key]
            return
        episode = self._episodes.get(key)
        if episode is None:
            return
        if episode.add_turn(result) and self._env_factory is not None:
            self._ask_env(episode, result)
        elif episode.finished:
            self._finish_episode(episode)

    def _ask_env(self, episode: Episode, result: GenerationResult) -> None:
        env = self._groups[episode.task.prompt.ordinal].envs[episode.id]
        text = self._decode(result.token_ids)
        self._asked[episode.id] = time.monotonic()
        if self._env_pool is None:
            self._observe(episode, env, text, result.token_ids)
        else:
            self._env_pool.submit(self._observe, episode, env, text, result.token_ids)

    def _observe(self, episode: Episode, env: TextEnv, text: str, ids: IntArray) -> None:
        try:
            answer: tuple[str | None, bool] | BaseException = env.observe(text, ids)
        except Exception as error:
            answer = error
        self._observed.put((episode, answer))
        self._wake.set()

    def _take_observations(self) -> None:
        while True:
            try:
                episode, answer = self._observed.get_nowait()
            except Empty:
                break
            if self._asked.pop(episode.id, None) is None:  # its group has failed meanwhile
                continue
            try:
                if isinstance(answer, BaseException):
                    raise answer
                text, done = answer
                episode.add_observation(None if text is None else self._encode(text), done)
                if not episode.finished:
                    self._engine.add([episode.request()])
            except Exception as error:
                self._fail_group(episode.task.prompt.ordinal, error)
                continue
            if episode.finished:
                self._finish_episode(episode)
        late = [id for id, since in self._asked.items() if time.monotonic() - since > self._call_s]
        for ordinal in {self._episodes[id].task.prompt.ordinal for id in late}:
            self._fail_group(ordinal, DeadlineExceeded(f"the environment did not answer within {self._call_s:.0f} s"))

    def _finish_episode(self, episode: Episode) -> None:
        del self._episodes[episode.id]
        group = self._groups[episode.task.prompt.ordinal]
        group.unfinished -= 1
        if group.unfinished == 0:
            del self._groups[group.task.prompt.ordinal]
            self._publish.put(group.episodes)

    def _fail_group(self, ordinal: int, error: BaseException) -> None:
        group = self._groups.pop(ordinal)
        live = [e for e in group.episodes if self._episodes.pop(e.id, None) is not None]
        for episode in live:
            self._asked.pop(episode.id, None)
        self._engine.abort([e.request_id for e in live])
        self._publish.fail(ordinal, error)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def _start_evaluation(self, requests: Sequence[GenerationRequest]) -> _Evaluation:
        self._evaluation_count += 1
        job = _Evaluation(f"evaluation-{self._evaluation_count}", [r.id for r in requests])
        self._engine.add([replace(r, id=f"{job.key}/{i}") for i, r in enumerate(requests)])
        self._evaluations[job.key] = job
        return job

    def _abandon_evaluation(self, job: _Evaluation) -> None:
        self._evaluations.pop(job.key, None)
        self._engine.abort([f"{job.key}/{i}" for i, r in enumerate(job.results) if r is None])

    # ---- end ---------------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        self._closed = True
        self._reject_commands()
        for job in self._evaluations.values():
            job.done.set_exception(RoleFailed(f"rollout worker {self.name} stopped", "the evaluation was cut short"))
        if self._env_pool is not None:
            self._env_pool.shutdown(wait=False, cancel_futures=True)
        try:
            self._leases.close()
            self._publish.close()
        finally:
            self._ended.set()

    def _reject_commands(self) -> None:
        while True:
            try:
                _, future = self._commands.get_nowait()
            except Empty:
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(RoleFailed(f"rollout worker {self.name} has stopped", "it takes no more calls"))


class _Group:
    """All episodes of one prompt."""

    def __init__(self, task: PromptTask, episodes: list[Episode]) -> None:
        self.task, self.episodes, self.unfinished = task, episodes, len(episodes)
        self.envs: dict[str, TextEnv] = {}


class _Evaluation:
    """Completions somebody waits for."""

    def __init__(self, key: str, ids: list[str]) -> None:
        self.key, self._ids, self.missing = key, ids, len(ids)
        self.results: list[GenerationResult | None] = [None] * len(ids)
        self.done: Future[list[GenerationResult]] = Future()

    def take(self, result: GenerationResult) -> bool:
        """True when it was the last one."""
        i = int(result.id.rpartition("/")[2])
        self.results[i] = replace(result, id=self._ids[i])
        self.missing -= 1
        if self.missing == 0:
            self.done.set_result(self.results)
        return self.missing == 0
