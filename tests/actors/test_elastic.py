"""Workers join where there is room, leave a node that is drained, and are given up where they cannot come back; nobody waits."""

from __future__ import annotations

import time

import pytest
from roles import Named, build, fail

from rayrl.elastic import Elastic
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.pool import Pool


class Nodes:
    """The runtime, on a cluster whose nodes the test makes up."""

    def __init__(self, runtime):
        self._runtime, self.free, self.away, self.homes = runtime, [], set(), {}

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def room(self):
        return self.free

    def leaving(self):
        return self.away

    def node_of(self, handle):
        return self.homes.get(handle.name, "first")


@pytest.fixture
def scene(ray_runtime):
    nodes, lost, said, sizes = Nodes(ray_runtime), [], [], []
    spec = RoleSpec("rollout-0", build, {"cls": Named, "name": "rollout-0", "index": 0}, bundle=0)
    pool = Pool(nodes, [spec], ray_runtime.start([spec], 60), start_s=120, restarts=1, backoff_s=0.1, on_lost=lost.append,
                on_back=lambda handle: handle.load(5))  # fmt: skip
    elastic = Elastic(nodes, pool, spec, {"CPU": 0.01}, 3, patience_s=10, say=said.append, resized=sizes.append, look_s=0.05)
    pool.run()

    def until(condition):
        limit, longest = time.monotonic() + 240, 0.0
        while not condition():
            assert time.monotonic() < limit, said
            begin = time.monotonic()
            pool.check()
            elastic.check()
            longest = max(longest, time.monotonic() - begin)
            time.sleep(0.02)
        return longest

    yield nodes, pool, until, lost, said, sizes
    pool.stop(20)


def test_workers_join_a_node_with_room_with_the_newest_weights_and_leave_it_when_it_is_drained(scene):
    nodes, pool, until, lost, said, sizes = scene
    until(lambda: True)
    assert len(pool.handles) == 1
    nodes.free = [{"CPU": 0.0}, {"CPU": 1.0}]
    until(lambda: len(pool.handles) == 3)
    until(lambda: said.count("rollout-2 joined: 3 at work") == 1)
    assert (
        [handle.held() for handle in pool.handles] == [0, 5, 5]
        and sizes == [2, 3]
        and pool.names == ["rollout-0", "rollout-1", "rollout-2"]
    )
    nodes.free, nodes.away, nodes.homes = [], {"second"}, {"rollout-1": "second"}
    leaver = next(handle for handle in pool.handles if handle.name == "rollout-1")
    until(lambda: "rollout-1 left: 2 at work" in said)
    assert lost == ["rollout-1"] and pool.names == ["rollout-0", "rollout-2"]
    with pytest.raises(Exception, match="rollout-1"):
        leaver.held()
    assert pool.call("who", timeout_s=20) == [["rollout-0", 0], ["rollout-2", 2]]
    nodes.free, nodes.away = [{"CPU": 1.0}], set()
    until(lambda: pool.names == ["rollout-0", "rollout-2", "rollout-1"] and len(pool.handles) == 3)  # the free index is taken again


def test_a_worker_whose_node_vanished_is_given_up_and_its_leases_go_to_the_others(scene):
    nodes, pool, until, lost, said, _ = scene
    nodes.free = [{"CPU": 1.0}]
    until(lambda: len(pool.handles) == 3)
    nodes.free = []
    for place in pool._places[1:]:
        place.spec = RoleSpec(place.spec.name, fail)  # nowhere to start it again
    for handle in pool.handles[1:]:
        handle.submit("die")
    until(lambda: len(pool.names) == 1)
    assert set(lost) == {"rollout-1", "rollout-2"} and "rollout-2 left: 1 at work" in said
    assert pool.call("who", timeout_s=20) == [["rollout-0", 0]]
