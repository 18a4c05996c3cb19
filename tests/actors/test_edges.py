"""Who is stuck on whom, since when and with what: said while there is time, and again in the error at the limit."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import pytest
from roles import Worker, build

from rayrl.buffer.service import BufferService
from rayrl.collecting import Collector
from rayrl.config.schema import BatchConfig, BufferConfig, Config, DeadlinesConfig
from rayrl.deadlines import OPEN
from rayrl.errors import DeadlineExceeded
from rayrl.runtime import edges
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.local import LocalRuntime
from rayrl.runtime.pool import Ranks
from rayrl.types import Prompt, PromptTask, SamplingParams, WeightManifest, WeightUpdate

UPDATE = WeightUpdate(WeightManifest(7, (), (), ()), ())


@pytest.fixture(params=["ray", "local"])
def runtime(request):
    return request.getfixturevalue("ray_runtime") if request.param == "ray" else LocalRuntime(call_s=30)


def task(ordinal):
    return PromptTask(Prompt(ordinal, [1, 2]), 2, SamplingParams())


def test_the_end_of_a_loop_is_waited_for_since_it_was_asked_for_not_since_the_loop_began(runtime):
    handle = runtime.start([RoleSpec("rollout-0", build, {"cls": Worker})], 60)[0]
    loop = handle.submit("run")
    time.sleep(3.0)
    with pytest.raises(DeadlineExceeded, match=r"driver waited [01] s for rollout-0.run"):
        loop.result(0.5)
    handle.submit("stop").result(10)
    loop.result(10)


def test_a_stuck_call_is_seen_with_its_version_and_named_in_the_error(runtime):
    handle = runtime.start([RoleSpec("rollout-0", build, {"cls": Worker})], 60)[0]
    pending = handle.submit("doze", 2.0, UPDATE)
    with pytest.raises(DeadlineExceeded) as caught:
        pending.result(0.5)
    assert re.match(r"driver waited \d s for rollout-0.doze of version 7, since ", caught.value.message)
    with pytest.raises(DeadlineExceeded), OPEN.waiting(pending.deadline(1.0)):
        assert any("rollout-0.doze of version 7" in wait.edge for wait in OPEN.longest_first())
        pending.result(0.1)
    assert not OPEN.longest_first()
    pending.result(20)
    runtime.stop(handle)


def test_a_joint_call_names_the_rank_that_is_late_and_not_those_that_are_done(ray_runtime):
    handles = ray_runtime.start([RoleSpec(f"learner-{i}", build, {"cls": Worker, "weights": 3.0 * i}) for i in range(2)], 60)
    ranks = Ranks(ray_runtime, lambda: handles, handles)
    with pytest.raises(DeadlineExceeded) as caught:
        ranks.submit("sleep_weights").results(1.5)
    assert "learner-1.sleep_weights" in caught.value.message and "learner-0" not in caught.value.message
    for handle in handles:
        ray_runtime.stop(handle)


def test_a_driver_without_progress_names_who_holds_which_ordinals():
    config = Config(batch=BatchConfig(4, 2), buffer=BufferConfig(max_staleness=1), deadlines=DeadlinesConfig(generate_s=6.0))
    buffer = BufferService(config.buffer, weights={}, aggregate=lambda values, weights: values)
    buffer.admit([task(i) for i in range(8)])
    buffer.lease_prompts("rollout-0", 0, 3, 0.0)
    buffer.lease_prompts("rollout-1", 1, 5, 0.0)
    roles = SimpleNamespace(buffer=buffer, check=lambda: None)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        Collector(config, roles, SimpleNamespace(position=8)).collect(0, 0, trained=0)
    assert 6 <= time.monotonic() - started < 9
    assert "for rollout-0 (ordinals 0..2); rollout-1 (ordinals 3..7), since" in caught.value.message


def test_what_a_call_is_about_is_told_in_a_few_words():
    assert edges.about("update_weights", [UPDATE]) == "version 7"
    assert edges.about("admit", [[task(3), task(4), task(9)]]) == "ordinals 3..4, 9"
    assert edges.about("export_weights", [5]) == "version 5" and edges.about("held", [5]) == ""
    assert edges.ordinals(range(0, 20, 2)) == "ordinals 0, 2, 4, 6 and more"
