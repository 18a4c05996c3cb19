"""What was trained on can be read back exactly, also while the run goes on."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayrl.data import arrow
from rayrl.errors import StorageError
from rayrl.telemetry.rollouts import RolloutWriter, read_rollouts
from rayrl.types import FinishReason, Trajectory, VersionSpan


def batch(ordinal, n=2):
    return arrow.encode(
        [
            Trajectory(
                id=f"{ordinal}/{i}",
                ordinal=ordinal,
                sample=i,
                token_ids=np.arange(5 + i, dtype=np.int32),
                action_mask=np.arange(5 + i) > 2,
                behavior_logprobs=np.linspace(0, -1, 5 + i, dtype=np.float32),
                version_spans=(VersionSpan(3, 3, 5 + i),),
                turns=((3, 5 + i),),
                finish_reason=FinishReason.STOP,
            )
            for i in range(n)
        ]
    )


def test_trajectories_come_back_with_their_step_reward_and_advantage(tmp_path):
    writer = RolloutWriter(tmp_path / "rollouts")
    rewards, kept = [np.array([1, 0.5], np.float32), np.array([0, 2], np.float32)], [np.array([True, False]), np.array([True, True])]
    writer.write(7, 6, [batch(0), batch(1)], rewards, kept, [np.array([0.5, 0], np.float32), np.array([-1, 1], np.float32)])
    table = read_rollouts(tmp_path / "rollouts")
    assert table.column_names[:5] == ["step", "version", "reward", "advantage", "kept"]
    rows = table.to_pylist()
    assert [(r["id"], r["step"], r["version"], r["reward"], r["advantage"], r["kept"]) for r in rows] == [
        ("0/0", 7, 6, 1.0, 0.5, True),
        ("0/1", 7, 6, 0.5, 0.0, False),
        ("1/0", 7, 6, 0.0, -1.0, True),
        ("1/1", 7, 6, 2.0, 1.0, True),
    ]
    decoded = arrow.decode(
        table.select(arrow.SCHEMA.names).replace_schema_metadata(arrow.SCHEMA.metadata).cast(arrow.SCHEMA).to_batches()[0]
    )
    np.testing.assert_array_equal(decoded[3].token_ids, np.arange(6))
    assert decoded[3].version_spans == (VersionSpan(3, 3, 6),)


def test_unknown_advantages_are_null_not_zero(tmp_path):
    writer = RolloutWriter(tmp_path)
    writer.write(0, 0, [batch(0)], [np.zeros(2, np.float32)], [np.ones(2, bool)])
    assert read_rollouts(tmp_path, columns=["advantage"]).to_pylist() == [{"advantage": None}] * 2


def test_steps_are_parts_and_a_repeated_step_replaces_its_part(tmp_path):
    writer = RolloutWriter(tmp_path)
    for step, ordinal in [(1, 10), (2, 20), (2, 21)]:
        writer.write(step, step, [batch(ordinal)], [np.zeros(2, np.float32)], [np.ones(2, bool)])
    (tmp_path / ".step-00000003.parquet.tmp").write_bytes(b"half a file")
    assert sorted(set(read_rollouts(tmp_path)["ordinal"].to_pylist())) == [10, 21]
    assert read_rollouts(tmp_path, step=1)["ordinal"].to_pylist() == [10, 10]
    assert pq.read_table(tmp_path / "step-00000002.parquet").num_rows == 2


def test_lengths_that_disagree_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="3 values of 'reward' for 2 trajectories"):
        RolloutWriter(tmp_path).write(0, 0, [batch(0)], [np.zeros(3, np.float32)], [np.ones(2, bool)])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_for_a_person(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        RolloutWriter(tmp_path / "file").write(0, 0, [batch(0)], [np.zeros(2, np.float32)], [np.ones(2, bool)])
