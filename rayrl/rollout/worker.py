"""A rollout worker: an autonomous loop that turns leased prompts into finished groups.

One thread owns the engine (`run`). Whatever can wait for somebody else happens in helper threads, so that the engine never
does: one keeps a lease request in flight at the buffer, one encodes, stores and announces finished groups, and slow
environments answer in a small pool. Control calls (`update_weights`, `rollout`, `reseed`) come from other threads, are
executed between two engine steps and block only their caller.

With ``lease_all`` (synchronous mode) everything that is leased is added before the first step and environments answer
inline, so that batch composition, and with it every sampled token, depends on nothing but seeds and weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np

from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.protocols import Engine, ReplayBuffer, Store, TextEnv
from rayrl.rollout.episodes import Episode
from rayrl.rollout.lanes import EpisodePacker
from rayrl.rollout.looping import LoopingWorker
from rayrl.types import (
    FinishReason,
    FloatArray,
    GenerationResult,
    IntArray,
    Prompt,
    PromptTask,
    Trajectory,
    VersionSpan,
)

Decode = Callable[[IntArray], str]
Encode = Callable[[str], Sequence[int]]
EnvFactory = Callable[[Prompt], TextEnv]
Given = Callable[[Prompt], Sequence[IntArray]]
Finish = Callable[[list[Episode]], None]
Fail = Callable[[BaseException], None]
T = TypeVar("T")

MAX_BACKLOG = 64
"""Finished groups waiting to be announced beyond which nothing new is leased."""


class RolloutWorker(LoopingWorker):
    """``decode`` makes text views; ``encode`` (needed with ``env_factory``) tokenises observations without special tokens; ``given``
    names completions of a training prompt that take the place of its first samples.

    ``call_s`` also limits an environment's answer.
    """

    kind, activity, stuck = "rollout worker", "generate", "its engine step is stuck; kill it"
    _engine: Engine

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
        given: Given | None = None,
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
        super().__init__(name, index, engine, buffer, store, EpisodePacker(store, decode), call_s=call_s, sync_s=sync_s)
        self._decode = decode
        self._encode, self._env_factory, self._given = encode, env_factory, given
        self._max_turns, self._max_length, self._max_running = max_turns if env_factory else 1, max_length, max_running
        self._lease_all = lease_all
        self._observed: SimpleQueue[tuple[Episode, tuple[str | None, bool] | BaseException]] = SimpleQueue()
        self._env_pool = ThreadPoolExecutor(env_threads, f"{name}-env") if env_factory and not lease_all else None
        self._group_size = 0
        self._groups: dict[str, _Group] = {}
        self._episodes: dict[str, Episode] = {}
        self._asked: dict[str, float] = {}  # episodes whose environment is thinking -> since when; oldest first
        self._jobs: dict[_Job, list[str]] = {}  # callers of `rollout` -> keys of the groups that they wait for
        self._job_count = 0

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._start_leased()
        self._take_observations()
        if self._engine.num_running == 0:
            self._idle()
            return
        self._burst.go_on()
        with self._stats.timed("busy_s"):
            results = self._engine.step()
        self._stats.add(engine_steps=1)
        for result in results:
            self._finish_turn(result)

    # ---- control, called from other threads ------------------------------------------------------------------------

    def join_transfer(self, address: str, rank_offset: int, world_size: int, buffer_bytes: int) -> None:
        """See `AsyncVllmEngine.join_transfer`."""
        self._commands.call(
            "joining the weight transfer", lambda: self._engine.join_transfer(address, rank_offset, world_size, buffer_bytes), self._sync_s
        )

    def rollout(self, tasks: Sequence[PromptTask], timeout_s: float) -> list[Trajectory]:
        """Episodes for the caller instead of the buffer (evaluation), sampled along with training; in the order of tasks and samples.

        Raises what an episode raised, and `DeadlineExceeded` after ``timeout_s`` (the requests are aborted).
        """
        if not tasks:
            return []
        job = _Job(len(tasks))
        self._commands.call("evaluation", lambda: self._start_job(job, tasks), timeout_s)
        try:
            groups = job.done.result(timeout=timeout_s)
        except FutureTimeout:
            self._commands.call("abort of an evaluation", lambda: self._abandon(job), self._call_s)
            raise DeadlineExceeded(
                f"evaluation on {self.name}: {job.missing} of {len(tasks)} prompts unfinished after {timeout_s:.0f} s",
                "raise deadlines.generate_s or shorten rollout.sampling.max_tokens",
            ) from None
        return [episode.trajectory(self._decode) for group in groups for episode in group]

    def reseed(self, seed: int) -> None:
        self._commands.call("reseed", lambda: self._engine.reseed(seed), self._call_s)

    def sleep(self) -> int:
        """Hands the engine's device memory over; returns the bytes freed (measured). Only while nothing runs."""
        return self._commands.call("sleep", self._engine.sleep, self._sync_s)

    def wake(self) -> None:
        """Takes the memory back; a weight update must follow before anything is generated."""
        self._commands.call("wake", self._engine.wake, self._sync_s)

    def logprobs(self, token_ids: IntArray) -> FloatArray:
        """See `Engine.logprobs`."""
        return self._commands.call("log-probs", lambda: self._engine.logprobs(token_ids), self._call_s)

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, seconds by activity, and gauges: see `RolloutStats`."""
        return self._stats.snapshot() | {"running": float(self._engine.num_running), "version": float(self._engine.version)}

    # ---- training episodes -------------------------------------------------------------------------------------------

    def _start_leased(self) -> None:
        for task in self._leases.take():
            self._group_size, key = task.n, str(task.prompt.ordinal)
            if key not in self._groups:  # else our lease expired and came back: the running group serves the new one
                given = self._given(task.prompt) if self._given else ()
                self._start_group(task, key, self._publish.put, partial(self._publish.fail, task.prompt.ordinal), given)
        if self._lease_all:
            self._leases.want(0 if self._episodes else 10**6)
        elif self._publish.backlog >= MAX_BACKLOG:
            self._leases.want(0)
        else:
            free = max(0, self._max_running - len(self._episodes))
            self._leases.want(-(-free // self._group_size) if self._group_size else 1)  # the first task tells how large groups are

    def _start_group(self, task: PromptTask, key: str, finish: Finish, fail: Fail, given: Sequence[IntArray] = ()) -> None:
        group = _Group(task, key, finish, fail, self._max_turns, self._max_length)
        try:
            if self._env_factory is not None:
                group.envs = {e.id: self._env_factory(task.prompt) for e in group.episodes}
            for episode, completion in zip(group.episodes, given, strict=False):
                episode.add_turn(self._as_sampled(episode, completion))
            running = [e for e in group.episodes if not e.finished]
            self._engine.add([e.request() for e in running])
        except Exception as error:
            fail(error)
            return
        if not running:
            finish(group.episodes)
            return
        group.unfinished = len(running)
        self._groups[key] = group
        self._episodes.update((e.id, e) for e in running)

    def _as_sampled(self, episode: Episode, completion: IntArray) -> GenerationResult:
        """A completion that was given, with the log-probs of the present policy. Raises `ValueError` where it does not fit."""
        request, count = episode.request(), len(completion)
        if not 0 < count <= self._max_length - len(request.token_ids):
            raise ValueError(f"a given completion of {count} tokens does not fit a context of {self._max_length} (model.max_length)")
        logprobs = self._engine.logprobs(np.concatenate([request.token_ids, completion]).astype(np.int32))[-count:]
        version = self._engine.version
        return GenerationResult(request.id, completion, logprobs, FinishReason.STOP, (VersionSpan(version, 0, count),))

    def _finish_turn(self, result: GenerationResult) -> None:
        self._stats.add(tokens=result.token_ids.shape[0], completions=1)
        episode = self._episodes.get(result.id.rpartition("/")[0])
        if episode is None:
            return
        if episode.add_turn(result) and self._env_factory is not None:
            self._ask_env(episode, result)
        elif episode.finished:
            self._finish_episode(episode)

    def _ask_env(self, episode: Episode, result: GenerationResult) -> None:
        env = self._groups[episode.group].envs[episode.id]
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
                self._fail_group(episode.group, error)
                continue
            if episode.finished:
                self._finish_episode(episode)
        late = [id for id, since in self._asked.items() if time.monotonic() - since > self._call_s]
        for key in {self._episodes[id].group for id in late}:
            self._fail_group(key, DeadlineExceeded(f"the environment did not answer within {self._call_s:.0f} s"))

    def _finish_episode(self, episode: Episode) -> None:
        del self._episodes[episode.id]
        group = self._groups[episode.group]
        group.unfinished -= 1
        if group.unfinished == 0:
            del self._groups[episode.group]
            group.finish(group.episodes)

    def _fail_group(self, key: str, error: BaseException) -> None:
        group = self._drop_group(key)
        group.fail(error)

    def _drop_group(self, key: str) -> _Group:
        group = self._groups.pop(key)
        live = [e for e in group.episodes if self._episodes.pop(e.id, None) is not None]
        for episode in live:
            self._asked.pop(episode.id, None)
        self._engine.abort([e.request_id for e in live])
        return group

    # ---- episodes for a caller ----------------------------------------------------------------------------------------

    def _start_job(self, job: _Job, tasks: Sequence[PromptTask]) -> None:
        self._job_count += 1
        self._jobs[job] = [f"job-{self._job_count}.{i}" for i in range(len(tasks))]
        for i, (task, key) in enumerate(zip(tasks, self._jobs[job], strict=True)):
            if job not in self._jobs:  # a prompt before this one failed
                return
            self._start_group(task, key, partial(self._job_group, job, i), partial(self._job_failed, job))

    def _job_group(self, job: _Job, index: int, episodes: list[Episode]) -> None:
        job.groups[index] = episodes
        job.missing -= 1
        if job.missing == 0 and self._jobs.pop(job, None):
            job.done.set_result(job.groups)

    def _job_failed(self, job: _Job, error: BaseException) -> None:
        if job in self._jobs:
            self._abandon(job)
            job.done.set_exception(error)

    def _abandon(self, job: _Job) -> None:
        for key in self._jobs.pop(job, ()):
            if key in self._groups:
                self._drop_group(key)

    # ---- end ---------------------------------------------------------------------------------------------------------

    def _wind_up(self) -> None:
        for job in self._jobs:
            job.done.set_exception(RoleFailed(f"rollout worker {self.name} stopped", "the evaluation was cut short"))
        if self._env_pool is not None:
            self._env_pool.shutdown(wait=False, cancel_futures=True)
        super()._wind_up()


class _Group:
    """All episodes of one prompt, and whom their end concerns."""

    def __init__(self, task: PromptTask, key: str, finish: Finish, fail: Fail, max_turns: int, max_length: int) -> None:
        self.episodes = [Episode(task, i, max_turns=max_turns, max_length=max_length, group=key) for i in range(task.n)]
        self.finish, self.fail = finish, fail
        self.unfinished = task.n
        self.envs: dict[str, TextEnv] = {}


class _Job:
    """Groups that a caller waits for."""

    def __init__(self, count: int) -> None:
        self.missing = count
        self.groups: list[list[Episode]] = [[] for _ in range(count)]
        self.done: Future[list[list[Episode]]] = Future()
