"""What a buffer wrote down adds up to what it knew: a replacement goes on from there, also after a torn last line."""

from __future__ import annotations

import random

import pytest

from rayrl.algorithms.aggregation import weighted_sum
from rayrl.buffer.journal import Journal, replay
from rayrl.buffer.service import BufferService
from rayrl.config.schema import BufferConfig


@pytest.fixture
def start(tmp_path):
    def service():
        config = BufferConfig(max_staleness=2, max_attempts=2)
        return BufferService(config, weights={"exact": 1.0}, aggregate=weighted_sum, jobs=(), journal=Journal(tmp_path / "j"))

    return service


def live(snapshot):
    pending = sorted(o for ranges in snapshot["live"].values() for start, end in ranges for o in range(start, end))
    return {key: snapshot[key] for key in ("trained", "dropped", "dropped_by", "version", "staleness")} | {"pending": pending}


@pytest.mark.parametrize("seed", range(8))
def test_the_journal_adds_up_to_the_snapshot_after_any_history(start, make, tmp_path, seed):
    rng, buffer, ordinal, step, version = random.Random(seed), start(), 0, 0, 0
    for _ in range(60):
        action = rng.random()
        if action < 0.3:
            buffer.admit([make.task(ordinal + i) for i in range(4)])
            ordinal += 4
        elif action < 0.6:
            leased = buffer.lease_prompts("w", 0, rng.randint(1, 4), 0.0)
            for task in leased:
                if rng.random() < 0.3:
                    buffer.fail_prompts("w", [task.prompt.ordinal], "bad")
                else:
                    buffer.put_groups("w", [make.group(task.prompt.ordinal, version)], {task.prompt.ordinal: make.records(0.0, 1.0)})
        elif action < 0.8:
            batch = buffer.sample(step, version, 2, 0.0)
            if batch is not None:
                buffer.confirm_trained(step, batch.ordinals)
                step, version = step + 1, version + 1
                buffer.set_version(version)
        assert live(replay(tmp_path / "j")) == live(buffer.snapshot())
    with (tmp_path / "j").open("a") as file:
        file.write('{"trained": [[0, ')
    known = replay(tmp_path / "j")
    assert live(known) == live(buffer.snapshot())
    again = start()
    again.restore(known, [make.task(o) for o in live(known)["pending"]])
    assert live(again.snapshot()) == live(known) == live(replay(tmp_path / "j"))


def test_a_batch_at_the_learner_is_taken_over_and_counts_once(start, make, tmp_path):
    old = start()
    old.admit([make.task(i) for i in range(6)])
    for task in old.lease_prompts("w", 0, 4, 0.0):
        old.put_groups("w", [make.group(task.prompt.ordinal, 0)], {task.prompt.ordinal: make.records(0.0, 1.0)})
    batch = old.sample(0, 0, 4, 0.0)
    known, new = replay(tmp_path / "j"), start()
    assert live(known)["pending"] == list(range(6))
    new.restore(known, [make.task(i) for i in range(6)])
    new.lease_prompts("w", 0, 1, 0.0)  # ordinal 0 is being generated again
    new.put_groups("w", [make.group(1, 0)], {1: make.records(0.0, 1.0)})  # and another result of ordinal 1 came in
    assert new.relend(batch)
    assert new.outstanding()["leased"] == 4 and new.outstanding()["queued"] == 2
    new.confirm_trained(0, batch.ordinals)
    assert not new.put_groups("w", [make.group(0, 0)], {0: make.records(0.0, 1.0)})[0]
    assert not new.relend(batch) and new.snapshot()["trained"] == [[0, 4]]
