"""Who failed first, how, and with what memory: read from what the roles left on disk."""

from __future__ import annotations

import os
import signal
import time

import pytest
from roles import Worker, build

from rayrl.errors import RoleFailed
from rayrl.runtime import life
from rayrl.runtime.contract import RoleSpec


def spec(name, **kwargs):
    return RoleSpec(name, build, {"cls": Worker, **kwargs})


def until(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
    assert condition()


def test_the_first_of_several_failures_is_told_with_its_end_memory_and_last_lines(ray_runtime):
    logs = ray_runtime._log_dir
    fine, killed, buggy, crashed = ray_runtime.start([spec(name) for name in ("fine", "killed", "buggy", "crashed")], 60)
    assert life.first_failure(logs) is None
    os.kill(killed.pid(), signal.SIGKILL)
    until(lambda: {s.role for s in life.read(logs) if s.failed} == {"killed"})
    time.sleep(1.5)
    with pytest.raises(RoleFailed):
        buggy.stumble()
    with pytest.raises(RoleFailed):
        crashed.crash()
    until(lambda: len([s for s in life.read(logs) if s.failed]) == 3)
    told = {s.role: s.to_json() for s in life.read(logs) if s.failed}
    assert told["killed"]["cause"] == "SIGKILL: it left no last word"
    assert told["buggy"]["cause"].startswith("raised KeyError") and "about to stumble" in told["buggy"]["log"]
    assert told["crashed"]["cause"] == "SIGSEGV: Segmentation fault"
    first = life.first_failure(logs)
    assert first.role == "killed" and first.to_json()["memory"]["rss_bytes"] > 10_000_000 and first.facts["node_free_bytes"] > 0
    assert first.cause("killed due to the node running low on memory").startswith("killed by Ray")
    again = ray_runtime.start([spec("killed")], 60)[0]  # its replacement writes over what it left
    until(lambda: not next(s for s in life.read(logs) if s.role == "killed").failed)
    for handle in (fine, again, buggy):
        ray_runtime.stop(handle)


def test_memory_of_a_role_counts_the_processes_that_it_started(ray_runtime):
    handle = ray_runtime.start([spec("parent")], 60)[0]
    held = lambda: next(s for s in life.read(ray_runtime._log_dir) if s.role == "parent").facts["rss_bytes"]
    before = held()
    handle.spawn(60_000_000)
    until(lambda: held() > before + 50_000_000)
    ray_runtime.stop(handle)


def test_the_share_of_the_object_store_in_use_is_known(ray_runtime):
    import numpy as np

    before = ray_runtime.usage()
    assert before["capacity"] > 100_000_000 and before["fullest"] < 0.3
    kept = ray_runtime.store.put(np.ones(60_000_000, np.uint8))
    until(lambda: ray_runtime.usage()["fullest"] > before["fullest"] + 0.4)
    del kept
