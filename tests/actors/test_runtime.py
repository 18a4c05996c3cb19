"""Roles in real Ray actors and in the in-process twin: the same contract, and failures that say who failed and why."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from roles import Deaf, Keeper, SlowToStart, Worker, build, fail, slow_to_build

from rayrl.config.schema import DeadlinesConfig, PlacementConfig
from rayrl.errors import ConfigError, DeadlineExceeded, EnvironmentMissing, PlacementError, RanksLost, RoleFailed
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.live import live_nodes
from rayrl.runtime.local import LocalRuntime
from rayrl.runtime.pool import Pool, Ranks
from rayrl.runtime.ray_runtime import RayRuntime


def spec(name, cls=Worker, **kwargs):
    return RoleSpec(name, build, {"cls": cls, **kwargs})


@pytest.fixture(params=["ray", "local"])
def runtime(request):
    return request.getfixturevalue("ray_runtime") if request.param == "ray" else LocalRuntime(call_s=30)


@pytest.fixture
def worker(ray_runtime):
    handle = ray_runtime.start([spec("worker")], 60)[0]
    yield handle
    ray_runtime.stop(handle)


def test_a_handle_calls_the_role_and_returns_its_answer(runtime):
    handle = runtime.start([spec("worker", weights=7)], 60)[0]
    assert handle.held() == 7
    handle.load(8)
    assert handle.submit("held").result(10) == 8
    runtime.stop(handle)


def test_our_own_errors_cross_the_process_border_unchanged(runtime):
    handle = runtime.start([spec("worker")], 60)[0]
    with pytest.raises(ConfigError, match="group_size") as caught:
        handle.complain()
    assert caught.value.hint == "set it to 1 or more"
    runtime.stop(handle)


def test_a_call_that_outlasts_its_limit_names_whom_it_waited_for(runtime):
    handle = runtime.start([spec("sleeper")], 60)[0]
    pending = handle.submit("sleep", 2.0)
    with pytest.raises(DeadlineExceeded, match=r"sleeper\.sleep"):
        pending.result(0.1)
    assert pending.result(20) == 2.0
    runtime.stop(handle)


def test_counters_and_spans_are_told_while_the_role_works(runtime):
    """Else the driver would wait for a learner step whenever it writes down the one before."""
    handle = runtime.start([replace(spec("busy", weights=3), concurrency=1)], 60)[0]
    work = handle.submit("sleep", 5.0)
    assert handle.observe("held").result(4.0) == 3
    handle.spans().result(4.0)
    assert not work.wait(0.0)
    runtime.stop(handle)


def test_payload_outlives_the_worker_that_made_it_once_it_is_adopted(ray_runtime):
    keeper = ray_runtime.start([spec("keeper", Keeper, store=ray_runtime.store)], 60)[0]
    maker = ray_runtime.start([spec("maker", store=ray_runtime.store, keeper=keeper)], 60)[0]
    maker.offer(10)  # small objects travel inline, large ones through shared memory
    maker.offer(1_000_000, 20, 2_000_000)
    pid = maker.pid()
    with pytest.raises(RoleFailed):
        maker.die()
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)
    assert keeper.total() == [10.0, 1_000_000.0, 20.0, 2_000_000.0]
    ray_runtime.stop(keeper)


def test_a_start_that_takes_too_long_names_its_limit(ray_runtime):
    with pytest.raises(DeadlineExceeded) as caught:
        ray_runtime.start([RoleSpec("sleeper", slow_to_build, {})], 2)
    assert "deadlines.start_s (now 2)" in caught.value.hint


def test_a_bug_in_a_role_is_reported_with_its_name_and_the_end_of_its_log(worker):
    with pytest.raises(RoleFailed, match="worker raised KeyError") as caught:
        worker.stumble()
    assert "about to stumble" in caught.value.hint


def test_a_role_that_cannot_be_built_is_reported_at_once_although_others_are_slow(ray_runtime):
    with pytest.raises(RoleFailed, match="broken raised RuntimeError: no model here") as caught:
        ray_runtime.start([spec("fine"), RoleSpec("broken", fail)], 60)
    assert "looking for the model" in caught.value.hint


def test_threads_and_cores_are_set_before_the_role_is_built_and_other_variables_stay_out(ray_runtime, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_DRIVER", "42")
    core = min(os.sched_getaffinity(0))
    handle = ray_runtime.start([RoleSpec("pinned", build, {"cls": Worker}, threads=3, cores=(core,))], 60)[0]
    assert handle.environment() == {"threads": "3", "cores": [core], "secret": None}
    ray_runtime.stop(handle)


def test_a_process_with_another_environment_is_refused_in_its_first_line(ray_runtime, monkeypatch):
    monkeypatch.setattr("rayrl.runtime.ray_runtime.lock", lambda: ("python 2.7", "torch 0.1"))
    started = time.monotonic()
    with pytest.raises(EnvironmentMissing, match=r"driver: torch 0\.1"):
        ray_runtime.start([spec("stranger")], 60)
    assert time.monotonic() - started < 20


def test_a_dead_worker_is_replaced_with_the_newest_weights_and_its_leases_are_released(ray_runtime):
    specs, lost = [spec("pool-0", weights=1), spec("pool-1", weights=1)], []
    pool = Pool(
        ray_runtime,
        specs,
        ray_runtime.start(specs, 60),
        start_s=60,
        on_lost=lost.append,
        on_back=lambda handle: handle.load(5),
    )
    pool.run()
    pool.check()
    dead = pool.handles[1].pid()
    pool.handles[1].submit("die")
    while not lost:
        pool.check()
        time.sleep(0.05)
    while pool.restarts == 0:
        pool.check()
        time.sleep(0.05)
    assert lost == ["pool-1"] and pool.restarts == 1
    assert pool.call("held", timeout_s=30) == [1, 5] and pool.handles[1].pid() != dead
    pool.stop(20)


def test_while_a_replacement_starts_the_others_work_and_nobody_waits(ray_runtime):
    specs = [spec("quick-0", weights=1), spec("slow-1", SlowToStart, weights=2)]
    pool = Pool(ray_runtime, specs, ray_runtime.start(specs, 60), start_s=60)
    pool.run()
    pool.handles[1].submit("die")
    longest = 0.0
    while pool.restarts == 0:
        begin = time.monotonic()
        pool.check()
        longest = max(longest, time.monotonic() - begin)
        assert pool.call("held", timeout_s=30)[0] == 1
        time.sleep(0.02)
    assert longest < SlowToStart.SECONDS / 2 and pool.call("held", timeout_s=30) == [1, 2]
    pool.stop(20)


def test_a_replacement_that_cannot_be_built_is_tried_again_and_then_ends_the_run_leaving_no_process(ray_runtime):
    specs, before = [spec("frail-0")], len(ray_runtime._started)
    pool = Pool(ray_runtime, specs, ray_runtime.start(specs, 60), start_s=60, restarts=2, backoff_s=0.1)
    pool._places[0].spec = RoleSpec("frail-0", fail)
    pool.run()
    pool.handles[0].submit("die")
    with pytest.raises(RoleFailed, match=r"no model here .*after 2 restarts"):
        while True:
            pool.check()
            time.sleep(0.05)
    for handle in ray_runtime._started[before:]:
        with pytest.raises(RoleFailed):
            handle.held()


def test_a_worker_that_keeps_dying_ends_the_run_with_its_last_failure(ray_runtime):
    specs = [spec("frail-0")]
    pool = Pool(ray_runtime, specs, ray_runtime.start(specs, 60), start_s=60, restarts=1, deaths=1, backoff_s=0.1)
    pool.run()
    with pytest.raises(RoleFailed, match=r"frail-0 died .*after 1 restarts"):
        for _ in range(400):
            for handle in pool.handles:
                handle.submit("die")
            pool.check()
            time.sleep(0.05)


def test_a_worker_that_does_not_end_when_it_is_asked_to_holds_up_the_end_of_a_run_no_longer_than_the_limit(ray_runtime):
    specs = [spec("deaf-0", cls=Deaf), spec("good-0")]
    deaf, good = handles = ray_runtime.start(specs, 60)
    pool = Pool(ray_runtime, specs, handles, start_s=60)
    pool.run()
    pid, began = deaf.pid(), time.monotonic()
    pool.stop(1.5)
    assert time.monotonic() - began < 4.0
    limit = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < limit:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}") and good.held() == 0
    ray_runtime.stop(good)


def test_a_placement_that_cannot_be_is_an_error_with_bundles_and_nodes(ray_runtime, tmp_path):
    with pytest.raises(PlacementError, match=r"did not place the run within 1 s(.|\n)*bundle 1.*CPU(.|\n)*nodes:(.|\n)*free of"):
        RayRuntime(PlacementConfig(), DeadlinesConfig(placement_s=1.0), tmp_path, bundles=[{"CPU": 0.1}, {"CPU": 64}])


def test_one_failed_rank_fails_the_joint_call_although_the_others_still_wait_for_it(ray_runtime):
    start = lambda: ray_runtime.start([spec("rank-0", weights=4), spec("rank-1")], 60)
    ranks = Ranks(ray_runtime, start, start())
    assert ranks.call("held", timeout_s=20) == 4
    ranks.handles[1].submit("die")
    started = time.monotonic()
    with pytest.raises(RanksLost, match="rank-1"):
        ranks.submit("sleep", 30).result(60)
    assert time.monotonic() - started < 20
    with pytest.raises(RanksLost, match="rank-1"):
        ranks.observe("held").results(20)
    survivor = ranks.handles[0]
    ranks.restart()
    assert ranks.submit("held").results(20) == [4, 0]
    with pytest.raises(RoleFailed):
        survivor.held()
    for handle in ranks.handles:
        ray_runtime.stop(handle)


def test_the_nodes_of_a_live_cluster_are_told_with_what_is_free(ray_runtime):
    (node,) = live_nodes(PlacementConfig())
    assert node.total["CPU"] == 2 and node.free["CPU"] <= 1  # the fixture's bundle holds one
    assert not set(node.total) & {"memory", "object_store_memory"} and not any("group" in name for name in node.free)
