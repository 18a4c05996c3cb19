"""TensorBoard reads back the same names and numbers that the other sinks get."""

import struct

import pytest

from rayrl.telemetry.tensorboard_sink import TensorboardSink

tensorboardX = pytest.importorskip("tensorboardX")


def scalars(folder):
    """(step, name, value) of every event, read by the record format: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            found += [(event.step, value.tag, value.simple_value, event.wall_time) for value in event.summary.value]
    return found


def test_scalars_come_back_under_their_names_and_what_is_no_number_is_left_out(tmp_path):
    sink = TensorboardSink(tmp_path / "tensorboard")
    sink.write(3, 1000.5, {"reward/mean": 0.25, "learner/loss": float("nan")})
    sink.write(4, 1001.5, {"reward/mean": 0.5})
    sink.close()
    assert scalars(tmp_path / "tensorboard") == [(3, "reward/mean", 0.25, 1000.5), (4, "reward/mean", 0.5, 1001.5)]
