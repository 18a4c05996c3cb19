"""Record batches come out of the object store as they went in, whatever they were framed in."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa

from rayrl.runtime.framing import framed
from rayrl.types import RewardRecord, RewardStatus


def test_a_framed_batch_comes_back_equal_with_its_metadata_and_without_a_copy():
    batch = pa.record_batch({"x": pa.array([[1.0], [], [2.0, 3.0]]), "name": ["a", None, "c"]}).replace_schema_metadata(
        {"kind": "trajectory/1"}
    )
    for given in (batch, batch.slice(1, 2)):
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(framed(given), protocol=5, buffer_callback=buffers.append)
        assert len(buffers) == 1
        found = pickle.loads(data, buffers=buffers)
        assert found.equals(given) and found.schema.metadata == given.schema.metadata
        place = np.frombuffer(buffers[0], np.uint8)
        inside = found.column("x").values.buffers()[1].address - place.ctypes.data
        assert 0 <= inside < len(place)


def test_what_is_no_batch_is_left_alone():
    value = np.ones(3)
    assert framed(value) is value


def test_a_reward_record_travels_whole_and_is_checked_on_arrival():
    record = RewardRecord("a", RewardStatus.SCORED, 1.5, (0.5, 1.0), "judge", "v1", 0.1, 0.2, "", "I think so")
    assert pickle.loads(pickle.dumps(record)) == record
