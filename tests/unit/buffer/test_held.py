"""What a commit keeps of a buffer comes back as it was: payloads, scores, half-finished scores, versions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rayrl.buffer import held, snapshot
from rayrl.buffer.service import BufferService
from rayrl.config.schema import BufferConfig
from rayrl.errors import CheckpointError, RoleFailed
from rayrl.runtime.local import LocalStore
from rayrl.types import OrdinalState

JOBS = ("verifiers", "judge")


class Forgetful(LocalStore):
    """The node of one payload is gone."""

    lost = None

    def get(self, ref, *, timeout_s):
        if self.lost is not None and ref.column("n")[0].as_py() == self.lost:
            raise RoleFailed("an object was lost")
        return ref


def service(make, store, jobs=JOBS):
    rules = make.rules({"exact": 1.0, "taste": 0.5})
    return BufferService(BufferConfig(max_staleness=3), weights=rules.weights, aggregate=rules.aggregate, jobs=jobs, store=store)


def payload(ordinal: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": [ordinal], "token_ids": [[ordinal, 7, 9]]}, metadata={"rayrl.schema": "made up"})


def filled(make, store):
    """Trained: 0. At the learner: 1. Ready: 2. Scored by one job of two: 3. Unscored: 4. In flight: 5. Queued: 6."""
    buffer = service(make, store)
    buffer.admit(make.tasks(*range(7)))
    buffer.lease_prompts("w", 0, 6, 0.0)
    buffer.put_groups("w", [replace(make.group(o, version=o % 3), payload=payload(o)) for o in range(5)])
    buffer.lease_unscored("v", "verifiers", 9, 0.0)
    buffer.lease_unscored("j", "judge", 9, 0.0)
    buffer.put_rewards("v", {o: make.records(0.0, 1.0) for o in range(4)})
    buffer.put_rewards("j", {o: make.records(0.25, None if o == 2 else 0.5, component="taste") for o in range(3)})
    batch = buffer.sample(0, 2, 1, 0.0)
    buffer.confirm_trained(0, batch.ordinals)
    buffer.sample(1, 2, 1, 0.0)
    return buffer


def again(make, buffer, store, path):
    saved = json.loads(json.dumps(buffer.snapshot()))
    written = buffer.write_held(saved["capture"], path)
    other = service(make, store)
    other.restore(saved, make.tasks(*snapshot.pending_ordinals(saved)), path)
    return written, other


def test_groups_come_back_with_their_payloads_rewards_versions_and_open_jobs(make, tmp_path):
    store = Forgetful()
    first = filled(make, store)
    written, second = again(make, first, store, tmp_path / "groups")
    assert written == 4
    before, after = first.outstanding(), second.outstanding()
    assert after == before | {"queued": 2, "in_flight": 0, "ready": before["ready"] + before["leased"], "leased": 0}
    for ordinal, info in first._core._infos.items():
        copy = second._core._infos[ordinal]
        assert copy.payload.equals(info.payload) and copy.payload.schema.metadata == info.payload.schema.metadata
        assert (copy.oldest_version, copy.nbytes, copy.finish_reasons) == (info.oldest_version, info.nbytes, info.finish_reasons)
        assert np.array_equal(copy.lengths, info.lengths)
    for ordinal, group in first._core._scored.items():
        copy = second._core._scored[ordinal]
        assert np.array_equal(copy.rewards, group.rewards) and np.array_equal(copy.kept, group.kept)
        assert all(np.array_equal(copy.components[name], group.components[name], equal_nan=True) for name in group.components)
    assert first.stats()["buffer/failed_scores/taste"] == second.stats()["buffer/failed_scores/taste"] == 1  # not counted again
    assert [info.ordinal for info in second.lease_unscored("v", "verifiers", 9, 0.0)] == [4]
    assert [info.ordinal for info in second.lease_unscored("j", "judge", 9, 0.0)] == [3, 4]
    second.put_rewards("j", {3: make.records(1.0, 1.0, component="taste")})
    assert second._core._scored[3].rewards.tolist() == [0.5, 1.5]  # with what the verifiers had said before


def test_a_group_whose_payload_is_lost_is_generated_again(make, tmp_path):
    store = Forgetful()
    first = filled(make, store)
    store.lost = 3
    written, second = again(make, first, store, tmp_path / "groups")
    assert written == 3 and second._core.ledger.state(3) is OrdinalState.QUEUED
    assert second.outstanding()["queued"] == 3


def test_what_is_written_is_what_was_held_when_the_snapshot_was_taken(make, tmp_path):
    store = Forgetful()
    buffer = filled(make, store)
    saved = buffer.snapshot()
    batch = buffer.sample(1, 2, 1, 0.0)
    buffer.confirm_trained(1, batch.ordinals)
    buffer.snapshot()
    assert buffer.write_held(saved["capture"], tmp_path / "groups") == 4
    assert [group.info.ordinal for group in held.read(tmp_path / "groups", lambda p: p)] == [1, 2, 3, 4]


def test_a_file_that_was_cut_short_is_refused(make, tmp_path):
    buffer = filled(make, Forgetful())
    saved, path = buffer.snapshot(), tmp_path / "groups"
    buffer.write_held(saved["capture"], path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError):
        list(held.read(path, lambda p: p))


def test_ordinals_that_waited_outside_wait_outside_again(make):
    core = make.core()
    make.ready(core, 0, 1)
    saved = snapshot.take(core)
    batch = core.select(0, 0, 2)
    core.confirm_trained(0, batch.ordinals)
    core.rewind(make.tasks(*snapshot.trained_since(core, saved)), 1)
    other = make.core()
    snapshot.restore(other, json.loads(json.dumps(snapshot.take(core))), make.tasks(0, 1))
    assert other.outstanding()["parked"] == 2 and other.outstanding()["queued"] == 0
