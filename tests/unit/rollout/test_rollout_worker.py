"""The rollout worker's loop around a fake engine: what is leased is finished once, and control never breaks generation."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from engine_contract import nano, weights_of

from rayrl.data.arrow import decode as decode_batch
from rayrl.errors import DeadlineExceeded, RoleFailed, WeightSyncError
from rayrl.rollout.fake import FakeEngine
from rayrl.rollout.worker import RolloutWorker
from rayrl.types import GroupInfo, Prompt, PromptTask, SamplingParams, Trajectory


class Buffer:
    """The rollout side of a buffer, in memory."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queued: deque[PromptTask] = deque()
        self.groups: dict[int, GroupInfo] = {}
        self.failed: dict[int, str] = {}
        self.put_sizes: list[int] = []
        self.lease_sizes: list[int] = []

    def admit(self, tasks) -> None:
        with self.changed:
            self.queued.extend(tasks)
            self.changed.notify_all()

    def lease_prompts(self, worker, index, max_groups, wait_s):
        with self.changed:
            self.changed.wait_for(lambda: self.queued, timeout=wait_s)
            taken = [self.queued.popleft() for _ in range(min(max_groups, len(self.queued)))]
        if taken:
            self.lease_sizes.append(len(taken))
        return taken

    def put_groups(self, worker, groups):
        with self.changed:
            self.put_sizes.append(len(groups))
            fresh = [g.ordinal not in self.groups for g in groups]
            self.groups.update((g.ordinal, g) for g in groups)
            self.changed.notify_all()
        return fresh

    def fail_prompts(self, worker, ordinals, reason):
        with self.changed:
            self.failed.update((o, reason) for o in ordinals)
            self.changed.notify_all()

    def wait(self, count: int, timeout: float = 20) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.groups) + len(self.failed) >= count, timeout=timeout), "groups did not arrive"


class MemoryStore:
    def put(self, value):
        return [value]

    offer = put

    def get(self, ref, *, timeout_s):
        return ref[0]


def tasks(count: int, *, n: int = 4, first: int = 0, **sampling) -> list[PromptTask]:
    params = SamplingParams(**({"max_tokens": 20} | sampling))
    prompts = [Prompt(i, np.random.default_rng(i).integers(3, 99, 6).astype(np.int32)) for i in range(first, first + count)]
    return [PromptTask(p, n, params) for p in prompts]


def text(ids) -> str:
    return " ".join(map(str, np.asarray(ids).tolist()))


@contextmanager
def running(engine=None, **kwargs) -> Iterator[tuple[RolloutWorker, Buffer]]:
    buffer = Buffer()
    settings = {"max_length": 128, "max_running": 16, "decode": text} | kwargs
    worker = RolloutWorker("rollout-0", 0, engine or FakeEngine(max_length=128, max_running=16), buffer, MemoryStore(), **settings)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    worker.failure = failure
    try:
        yield worker, buffer
    except AssertionError as error:
        raise AssertionError(f"run() ended with {failure}") from error
    finally:
        worker.stop(20)
        thread.join(20)
        assert not thread.is_alive()


def trajectories(buffer: Buffer) -> dict[int, list[Trajectory]]:
    return {o: decode_batch(g.payload[0]) for o, g in buffer.groups.items()}


def test_every_leased_prompt_becomes_one_group_of_n_samples():
    with running() as (worker, buffer):
        buffer.admit(tasks(40))
        buffer.wait(40)
    assert sorted(buffer.groups) == list(range(40)) and not buffer.failed
    for ordinal, samples in trajectories(buffer).items():
        info = buffer.groups[ordinal]
        assert [t.id for t in samples] == [f"{ordinal}/{i}" for i in range(4)]
        assert [t.num_tokens for t in samples] == info.lengths.tolist()
        assert [t.num_action_tokens for t in samples] == info.action_tokens.tolist()
        assert all(t.text == text(t.token_ids[6:]) for t in samples)
        assert info.nbytes > 0 and len(info.finish_reasons) == 4
    stats = worker.stats()
    assert stats["groups"] == 40 and stats["completions"] == 160
    assert stats["tokens"] == sum(g.action_tokens.sum() for g in buffer.groups.values())
    assert stats["rss_bytes"] > 1e6 and stats["busy_s"] > 0


def test_the_engine_is_never_leased_more_than_it_can_run_plus_one_group():
    with running(FakeEngine(max_length=128, max_running=16, step_s=0.001)) as (worker, buffer):
        buffer.admit(tasks(60))
        peak = 0
        while len(buffer.groups) < 60:
            peak = max(peak, int(worker.stats()["running"]))
            time.sleep(0.001)
    assert 12 <= peak <= 16 + 4


def test_synchronous_mode_adds_everything_before_the_first_step():
    engine = FakeEngine(max_length=128, max_running=8)
    seen, step = [], engine.step
    engine.step = lambda: (seen.append(engine.num_running), step())[1]
    with running(engine, lease_all=True, max_running=8) as (_, buffer):
        buffer.admit(tasks(30, ignore_eos=True))
        buffer.wait(30)
    assert seen[0] == 120 and buffer.lease_sizes == [30]


def test_equal_seeds_give_equal_groups_in_synchronous_mode():
    runs = []
    for _ in range(2):
        with running(lease_all=True) as (worker, buffer):
            worker.reseed(3)
            buffer.admit(tasks(10))
            buffer.wait(10)
            runs.append(trajectories(buffer))
    for ordinal, samples in runs[0].items():
        assert [t.token_ids.tolist() for t in samples] == [t.token_ids.tolist() for t in runs[1][ordinal]]


def test_a_weight_update_lands_between_two_steps_of_running_generations():
    with running(FakeEngine(max_length=128, max_running=16, step_s=0.004)) as (worker, buffer):
        buffer.admit(tasks(4, max_tokens=60, ignore_eos=True))
        while worker.stats()["running"] < 16:
            time.sleep(0.001)
        time.sleep(0.05)
        update = weights_of(nano(0), 1)
        report = worker.update_weights(type(update)(update.manifest, [[b] for b in update.buckets]))
        assert report.version == 1 and report.digest == update.manifest.digest
        buffer.wait(4)
    for samples in trajectories(buffer).values():
        assert all([s.version for s in t.version_spans] == [0, 1] for t in samples)
    assert {(g.oldest_version, g.newest_version) for g in buffer.groups.values()} == {(0, 1)}
    assert worker.stats()["weight_updates"] == 1


def test_a_refused_weight_update_is_raised_to_its_caller_and_generation_goes_on():
    with running() as (worker, buffer):
        update = weights_of(nano(0), 1)
        update.buckets[0][0] ^= 1
        with pytest.raises(WeightSyncError):
            worker.update_weights(update)
        buffer.admit(tasks(3))
        buffer.wait(3)
    assert not worker.failure


def test_evaluation_is_answered_in_order_while_training_generations_run_and_never_reaches_the_buffer():
    with running(FakeEngine(max_length=128, max_running=16, step_s=0.001)) as (worker, buffer):
        buffer.admit(tasks(20))
        asked = [replace(task, max_tokens=(i + 1, i + 2)) for i, task in enumerate(tasks(5, n=2, ignore_eos=True))]
        found = worker.rollout(asked, 20)
        assert [t.id for t in found] == [f"{i}/{k}" for i in range(5) for k in range(2)]
        assert [t.num_action_tokens for t in found] == [i + 1 + k for i in range(5) for k in range(2)]
        buffer.wait(20)
    assert sorted(buffer.groups) == list(range(20))


def test_an_evaluation_that_takes_too_long_is_aborted_and_says_so():
    with running(FakeEngine(max_length=4096, max_running=16, step_s=0.01), max_length=4096) as (worker, _):
        with pytest.raises(DeadlineExceeded, match="1 of 1 prompts unfinished"):
            worker.rollout(tasks(1, max_tokens=4000, ignore_eos=True), 0.2)
        assert worker.stats()["running"] == 0
        bad = PromptTask(Prompt(0, np.zeros(5000, np.int32)), 1, SamplingParams())
        with pytest.raises(ValueError, match="room"):
            worker.rollout([bad], 5)


class Countdown:
    """Answers ``turns`` times, then ends; the last prompt's environment breaks."""

    def __init__(self, prompt: Prompt, broken: int) -> None:
        self.ordinal, self.broken, self.turns = prompt.ordinal, broken, 0

    def observe(self, action_text, action_ids):
        assert action_text == text(action_ids)
        self.turns += 1
        if self.ordinal == self.broken and self.turns == 2:
            raise RuntimeError("the cable is cut")
        return ("obs", False) if self.turns < 3 else (None, True)


@pytest.mark.parametrize("lease_all", [False, True], ids=["asynchronous", "synchronous"])
def test_a_broken_environment_fails_its_own_prompt_and_no_other(lease_all):
    kwargs = {"env_factory": lambda p: Countdown(p, broken=5), "encode": lambda s: [101, 102], "max_turns": 6, "lease_all": lease_all}
    with running(**kwargs) as (worker, buffer):
        buffer.admit(tasks(8, max_tokens=5))
        buffer.wait(8)
    assert sorted(buffer.groups) == [0, 1, 2, 3, 4, 6, 7] and buffer.failed == {5: "RuntimeError: the cable is cut"}
    for samples in trajectories(buffer).values():
        for t in samples:
            assert len(t.turns) == 3 and t.finish_reason == "env"
            between = t.token_ids[t.turns[0][1] : t.turns[1][0]]
            assert between.tolist() == [101, 102] and not t.action_mask[t.turns[0][1]]
    assert worker.stats()["failed_episodes"] == 1 and worker.stats()["running"] == 0


def test_an_environment_that_never_answers_fails_its_prompt_when_the_limit_runs_out():
    class Stuck:
        def __init__(self, prompt):
            self.ordinal = prompt.ordinal

        def observe(self, action_text, action_ids):
            if self.ordinal == 0:
                time.sleep(2)
            return None, True

    with running(env_factory=Stuck, encode=lambda s: [9], max_turns=3, call_s=0.3, env_threads=16) as (_, buffer):
        buffer.admit(tasks(3, max_tokens=4))
        buffer.wait(3)
    assert sorted(buffer.groups) == [1, 2] and "did not answer" in buffer.failed[0]


def test_a_prompt_that_does_not_fit_fails_alone():
    long = PromptTask(Prompt(99, np.zeros(500, np.int32) + 5), 4, SamplingParams())
    with running() as (_, buffer):
        buffer.admit([*tasks(2), long, *tasks(2, first=2)])
        buffer.wait(5)
    assert sorted(buffer.groups) == [0, 1, 2, 3] and "ValueError" in buffer.failed[99]


def test_an_engine_failure_ends_run_and_every_later_call_says_so():
    engine = FakeEngine(max_length=128, max_running=16)
    engine.step = lambda: (_ for _ in ()).throw(RuntimeError("illegal memory access"))
    with running(engine) as (worker, buffer):
        buffer.admit(tasks(1))
        deadline = time.monotonic() + 10
        while not worker.failure and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(RoleFailed, match="has stopped"):
            worker.reseed(1)
    assert str(worker.failure[0]) == "illegal memory access"


def test_a_failing_buffer_ends_run_with_its_error():
    with running() as (worker, buffer):
        buffer.put_groups = lambda *_: (_ for _ in ()).throw(ConnectionError("buffer is gone"))
        buffer.admit(tasks(2))
        deadline = time.monotonic() + 10
        while not worker.failure and time.monotonic() < deadline:
            time.sleep(0.01)
    assert isinstance(worker.failure[0], ConnectionError)


def test_stop_publishes_what_is_finished():
    with running() as (worker, buffer):
        buffer.admit(tasks(30))
        buffer.wait(5)
    assert worker.stats()["groups"] == len(buffer.groups) == sum(buffer.put_sizes)


def test_the_samples_of_a_group_that_fails_stop_at_once_instead_of_being_generated_for_nobody():
    class Fragile:
        """The first sample's environment breaks after its first turn; the others would write thousands of tokens."""

        def __init__(self, prompt):
            self.prompt = prompt

        def observe(self, action_text, action_ids):
            raise RuntimeError("the cable is cut")

    engine = FakeEngine(max_length=100_000, max_running=16)
    limits = (2, 50_000, 50_000, 50_000)
    with running(engine, env_factory=Fragile, encode=lambda s: [9], max_turns=2, max_length=100_000) as (worker, buffer):
        buffer.admit([replace(task, max_tokens=limits) for task in tasks(1, max_tokens=50_000, ignore_eos=True)])
        buffer.wait(1)
        limit = time.monotonic() + 5
        while worker.stats()["running"] and time.monotonic() < limit:
            time.sleep(0.01)
        assert worker.stats()["running"] == 0 and worker.stats()["tokens"] < 100
    assert buffer.failed == {0: "RuntimeError: the cable is cut"}


def test_given_completions_take_the_place_of_the_first_samples_with_the_policys_own_logprobs():
    engine = FakeEngine(max_length=128, max_running=16)
    given = [np.array([7, 8, 1], np.int32), np.array([9, 1], np.int32)]
    with running(engine, given=lambda prompt: given) as (worker, buffer):
        buffer.admit(tasks(3, n=4) + tasks(1, n=2, first=3))
        buffer.wait(4)
    assert not buffer.failed
    for ordinal, samples in trajectories(buffer).items():
        assert [t.id for t in samples] == [f"{ordinal}/{i}" for i in range(4 if ordinal < 3 else 2)]
        for t, ids in zip(samples, given, strict=False):
            assert t.token_ids[6:].tolist() == ids.tolist() and t.action_mask[6:].all() and not t.action_mask[:6].any()
            assert t.behavior_logprobs[6:] == pytest.approx(engine.logprobs(t.token_ids)[5:])
            assert [(s.start, s.end) for s in t.version_spans] == [(6, 6 + len(ids))]
    assert worker.stats()["completions"] == 3 * 2, "the others are sampled, and a group that is all given is none of the engine's"


def test_a_given_completion_that_does_not_fit_fails_its_prompt_and_evaluation_never_sees_any():
    with running(given=lambda prompt: [np.arange(200, dtype=np.int32)]) as (worker, buffer):
        buffer.admit(tasks(1))
        buffer.wait(1)
        assert "does not fit" in buffer.failed[0]
        assert len(worker.rollout(tasks(1, first=9), 20.0)) == 4
