"""How weights reach engines when one of them is lost, and who meets whom for transfers between GPUs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from rayrl.config.schema import Config
from rayrl.publishing import Publisher
from rayrl.types import SyncReport, WeightManifest, WeightUpdate


class Done:
    def __init__(self, value):
        self._value = value

    def result(self, timeout_s):
        return self._value


class Role:
    """Answers by method name and remembers what it was asked."""

    def __init__(self, name, answers=None):
        self.name, self._answers, self.asked = name, answers or {}, []

    def submit(self, method, *args):
        self.asked.append((method, *args))
        answer = self._answers.get(method)
        return Done(answer(*args) if callable(answer) else answer)

    def call(self, method, *args, timeout_s):
        return self.submit(method, *args).result(timeout_s)


def loaded(update: WeightUpdate) -> SyncReport:
    return SyncReport(update.manifest.version, update.manifest.digest, 0.0, 0.0, 0.0, np.zeros(1, np.float32))


def update(version: int, transport: str) -> WeightUpdate:
    digests = ("a" * 8,) if transport == "store" else ()
    return WeightUpdate(WeightManifest(version, (), (), digests), (), transport=transport, canary_logprobs=np.zeros(1, np.float32))


def fleet(engines: int, learner: Role, transport: str) -> tuple[SimpleNamespace, list[Role]]:
    workers = [Role(f"rollout-{i}", {"update_weights": loaded}) for i in range(engines)]
    pool = SimpleNamespace(handles=workers, submit=lambda method, *args: [w.submit(method, *args) for w in workers], on_back=None)
    ranks = SimpleNamespace(handles=[learner], submit=learner.submit, call=learner.call)
    runtime = SimpleNamespace(address=lambda handle: "host:1234")
    buffer = SimpleNamespace(set_version=lambda version: None)
    return SimpleNamespace(policies=pool, learner=ranks, runtime=runtime, buffer=buffer, transport=transport), workers


def test_every_engine_worker_has_a_rank_of_its_own_behind_the_learner():
    config, learner = Config(), Role("learner-0")
    config.rollout.tensor_parallel = 2
    roles, workers = fleet(3, learner, "nccl")
    Publisher(config, roles, "disaggregated", None).connect()
    assert learner.asked == [("open_transfer", "host:1234", 7)]
    assert [w.asked[0][:4] for w in workers] == [("join_transfer", "host:1234", first, 7) for first in (1, 3, 5)]


def test_the_store_needs_no_meeting():
    learner = Role("learner-0")
    roles, workers = fleet(2, learner, "store")
    Publisher(Config(), roles, "cpu", None).connect()
    assert not learner.asked and not any(w.asked for w in workers)


def test_when_an_engine_of_the_broadcast_group_is_lost_the_store_takes_over():
    """The learner may have exported the next version already: its announcement over the dead group is replaced by the restated one."""
    learner = Role("learner-0", {"leave_transfer": update(2, "store")})
    roles, workers = fleet(2, learner, "nccl")
    publisher = Publisher(Config(), roles, "disaggregated", None)
    assert publisher.publish(Done(update(1, "nccl"))).version == 1
    replaced = Role("rollout-1", {"update_weights": loaded})
    roles.policies.on_back(replaced)
    assert replaced.asked[-1][1].transport == "store"
    assert publisher.publish(Done(update(2, "nccl"))).version == 2
    assert publisher.publish(Done(update(3, "store"))).version == 3
    assert [asked[1].transport for asked in workers[0].asked] == ["nccl", "store", "store"]
    assert learner.asked == [("leave_transfer",)]


def test_an_update_of_many_buckets_is_one_call_on_each_engine():
    learner = Role("learner-0")
    roles, workers = fleet(3, learner, "store")
    many = replace(update(1, "store"), buckets=tuple(range(200)))
    Publisher(Config(), roles, "cpu", None).publish(Done(many))
    assert [[method for method, *_ in worker.asked] for worker in workers] == 3 * [["update_weights"]] and not learner.asked
