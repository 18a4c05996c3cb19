"""Above 80 % nothing runs ahead, and it is said once; below 70 % it does again."""

from __future__ import annotations

import time
from types import SimpleNamespace

from rayrl.algorithms.aggregation import weighted_sum
from rayrl.buffer.service import BufferService
from rayrl.collecting import Collector
from rayrl.config.schema import BatchConfig, BufferConfig, Config
from rayrl.pressure import Pressure
from rayrl.types import Gathering, Prompt, PromptTask, SamplingParams


def test_pressure_begins_at_80_and_ends_below_70_percent_and_each_change_is_said_once():
    share, said = {"object store": 0.1, "replay buffer": 0.2}, []
    pressure = Pressure({name: lambda n=name: share[n] for name in share}, lambda high, text: said.append((high, text)), look_s=0.0)
    assert not pressure()
    share["object store"] = 0.81
    assert pressure() and pressure()
    share["object store"] = 0.75
    assert pressure()
    share["object store"] = 0.69
    assert not pressure()
    assert [high for high, _ in said] == [True, False] and "the object store is 81% full" in said[0][1]


def test_under_pressure_only_the_next_batch_is_admitted():
    config = Config(batch=BatchConfig(4, 2), buffer=BufferConfig(max_staleness=3))
    buffer = BufferService(config.buffer, weights={"exact": 1.0}, aggregate=weighted_sum)
    taken = []

    def take(count):
        taken.append(count)
        return [PromptTask(Prompt(sum(taken[:-1]) + i, [1]), 2, SamplingParams()) for i in range(count)]

    pressed = [True]
    collector = Collector(config, SimpleNamespace(buffer=buffer), SimpleNamespace(take=take, position=0), lambda: pressed[0])
    admit = lambda: buffer.admit(collector._due(buffer.outstanding(), 100))
    admit()
    admit()
    assert taken == [4]
    pressed[0] = False
    admit()
    assert taken == [4, 12]


def test_who_came_or_left_is_looked_for_also_when_batches_are_always_ready():
    batch = SimpleNamespace(groups=[])
    outstanding = dict.fromkeys(("live", "queued", "in_flight", "unscored", "parked", "ready"), 4)
    buffer = SimpleNamespace(outstanding=lambda: outstanding, gather=lambda *args, wait_s: Gathering(batch, outstanding, 0))
    looks = []
    roles = SimpleNamespace(buffer=buffer, reference=SimpleNamespace(size=0), check=lambda: looks.append(1))
    collector = Collector(Config(batch=BatchConfig(4, 2), buffer=BufferConfig(max_staleness=0)), roles, SimpleNamespace(position=0))
    for step in range(3):
        assert collector.collect(step, step, trained=step).batch is batch
        time.sleep(0.3)
    assert len(looks) == 3
