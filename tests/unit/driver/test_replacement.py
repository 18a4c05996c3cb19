"""Replacing workers, with stand-ins for processes: what is waited for, what is borne, and what ends a run."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from rayrl.errors import PayloadLost, RoleDied, RoleFailed
from rayrl.runtime import pool as pools
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.pool import Pool


class Loop:
    def __init__(self):
        self.failure = None

    def wait(self, timeout_s):
        return self.failure is not None

    def result(self, timeout_s):
        raise self.failure


class Handle:
    def __init__(self):
        self.loop = Loop()

    def submit(self, method, *args):
        return self.loop


class Processes:
    """A runtime whose next starts fail as told."""

    def __init__(self):
        self.failures, self.started, self.stopped = [], [], []

    def start(self, specs, start_s):
        if self.failures:
            raise self.failures.pop(0)
        self.started.append(Handle())
        return self.started[-1:]

    def stop(self, handle):
        self.stopped.append(handle)


@pytest.fixture
def working(monkeypatch):
    """A pool of one worker whose replacements wait for nothing."""
    monkeypatch.setattr(pools, "_AGAIN_S", 0.01)
    runtime = Processes()
    specs = [RoleSpec("worker", SimpleNamespace, {})]
    pool = Pool(runtime, specs, runtime.start(specs, 1.0), start_s=5.0, restarts=2, backoff_s=0.0)
    pool.run()
    return runtime, pool


def die(runtime, pool):
    runtime.started[-1].loop.failure = RoleDied("worker died")
    pool.check()


def until(pool, condition):
    limit = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)
        pool.check()


def test_a_replacement_whose_weights_died_with_their_learner_waits_for_others(working):
    runtime, pool = working
    offered = []

    def bring_up_to_date(handle):
        offered.append(handle)
        if len(offered) < 4:
            raise PayloadLost("a bucket is gone")

    pool.on_back = bring_up_to_date
    die(runtime, pool)
    until(pool, lambda: pool.handles)
    assert len(offered) == 4 and len(set(offered)) == 1, "the same process, offered weights again and again"
    assert len(runtime.started) == 2 and pool.restarts == 1


def test_workers_that_are_killed_while_they_start_do_not_end_the_run(working):
    runtime, pool = working
    runtime.failures = [RoleDied("killed")] * 6
    die(runtime, pool)
    until(pool, lambda: pool.handles)
    assert pool.restarts == 1


def test_a_worker_that_cannot_be_built_ends_the_run_with_its_reason(working):
    runtime, pool = working
    runtime.failures = [RoleFailed("no such model")] * 6
    die(runtime, pool)
    with pytest.raises(RoleFailed, match="no such model"):
        until(pool, lambda: pool.handles)
    assert len(runtime.failures) == 4
