"""What was trained on can be read back exactly, also while the run goes on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrl.data import arrow
from rayrl.errors import RoleFailed, StorageError
from rayrl.telemetry.archive import Archive
from rayrl.telemetry.fragments import keeps
from rayrl.telemetry.rollouts import GroupRows, RolloutWriter, Tokens, read_rollouts
from rayrl.types import (
    DroppedGroup,
    FinishReason,
    GroupInfo,
    LearnBatch,
    Outcomes,
    RewardRecord,
    RewardStatus,
    ScoredGroup,
    Trajectory,
    VersionSpan,
)


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


def info(ordinal, n=2, payload=None):
    lengths = np.arange(5, 5 + n, dtype=np.int32)
    return GroupInfo(ordinal, payload, 100, lengths, lengths - 3, oldest_version=3, newest_version=3)


def rows(ordinal, rewards=(0, 0), kept=(True, True), **more):
    return GroupRows(info(ordinal), batch(ordinal), np.array(rewards, np.float32), np.array(kept, bool), **more)


def tokens(advantage, logprobs):
    return Tokens(np.full(len(logprobs), advantage, np.float32), np.array(logprobs, np.float32))


def scored(value, **more):
    return RewardRecord("exact", RewardStatus.SCORED, value, producer="judge", producer_version="v2", cost_usd=0.01, answer="<b>", **more)


def test_trajectories_come_back_with_what_the_learner_and_the_judge_said(tmp_path):
    groups = [
        rows(0, (1, 0.5), (True, False), tokens=[tokens(0.5, [-0.25, -1.0]), None]),
        rows(1, (0, 2), tokens=[None, tokens(1, [0, 0, 0])], components={"exact": np.array([0, np.nan], np.float32)}),
    ]
    groups[1] = replace(groups[1], records=[[scored(0.0)], [RewardRecord("exact", RewardStatus.FAILED, error="timeout")]])
    RolloutWriter(tmp_path / "rollouts").write(7, 6, groups, arrow.encode_records)
    table = read_rollouts(tmp_path / "rollouts")
    found = table.to_pylist()
    assert [(r["id"], r["step"], r["version"], r["reward"], r["advantage"], r["kept"], r["reason"]) for r in found] == [
        ("0/0", 7, 6, 1.0, 0.5, True, None),
        ("0/1", 7, 6, None, None, False, "aborted"),
        ("1/0", 7, 6, 0.0, None, True, None),
        ("1/1", 7, 6, 2.0, 1.0, True, None),
    ]
    behavior = np.linspace(0, -1, 5)[3:]  # the actions of the first trajectory
    assert found[0]["gap"] == pytest.approx(np.abs(np.array([-0.25, -1.0]) - behavior).mean())
    assert found[0]["learner_logprobs"] == [-0.25, -1.0] and found[1]["learner_logprobs"] == [] and found[1]["gap"] is None
    assert [(r["staleness"], r["length"]) for r in found] == [(3, 2), (3, 3), (3, 2), (3, 3)]
    assert found[2]["components"] == [("exact", 0.0)] and found[3]["components"] == [("exact", None)]
    [record] = found[2]["rewards"]
    assert (record["producer"], record["producer_version"], record["cost_usd"], record["answer"]) == ("judge", "v2", 0.01, "<b>")
    assert found[3]["rewards"][0]["error"] == "timeout"
    plain = table.select(arrow.SCHEMA.names).replace_schema_metadata(arrow.SCHEMA.metadata).cast(arrow.SCHEMA)
    decoded = arrow.decode(plain.to_batches()[0])
    np.testing.assert_array_equal(decoded[3].token_ids, np.arange(6))
    assert decoded[3].version_spans == (VersionSpan(3, 3, 6),)
    assert decoded[2].rewards == (scored(0.0),)


def test_unknown_advantages_are_null_not_zero(tmp_path):
    RolloutWriter(tmp_path).write(0, 0, [rows(0)])
    assert read_rollouts(tmp_path, columns=["advantage", "gap"]).to_pylist() == [{"advantage": None, "gap": None}] * 2


def test_steps_are_parts_and_a_repeated_step_replaces_its_part(tmp_path):
    writer = RolloutWriter(tmp_path)
    for step, ordinal in [(1, 10), (2, 20), (2, 21)]:
        writer.write(step, step, [rows(ordinal)])
    (tmp_path / ".step-00000003.parquet.tmp").write_bytes(b"half a file")
    assert sorted(set(read_rollouts(tmp_path)["ordinal"].to_pylist())) == [10, 21]
    assert read_rollouts(tmp_path, step=1)["ordinal"].to_pylist() == [10, 10]
    assert pq.read_table(tmp_path / "step-00000002.parquet").num_rows == 2


def test_lengths_that_disagree_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="3 values of 'reward' for 2 trajectories"):
        RolloutWriter(tmp_path).write(0, 0, [rows(0, (0, 0, 0))])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_for_a_person(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        RolloutWriter(tmp_path / "file").write(0, 0, [rows(0)])


class Buffer:
    """Remembers one trained group's records and two dropped groups, one of which is lost."""

    def take_outcomes(self, ordinals):
        dropped = [
            DroppedGroup(info(5, payload="five"), "zero_variance", [[scored(1.0)], [scored(1.0)]]),
            DroppedGroup(info(6, payload="gone"), "stale", ()),
        ]
        return Outcomes({ordinal: [[scored(1.0)], [scored(0.0)]] for ordinal in ordinals}, dropped, forgotten=3)


class Store:
    def __init__(self, values):
        self.values = values

    def get(self, reference, *, timeout_s):
        if reference not in self.values:
            raise RoleFailed("lost")
        return self.values[reference]

    def get_all(self, references, *, timeout_s):
        return [self.get(reference, timeout_s=timeout_s) for reference in references]


def test_the_archive_joins_what_buffer_and_learner_know(tmp_path):
    learner = pa.RecordBatch.from_pydict(
        {
            "ordinal": pa.array([4, 4], pa.int64()),
            "sample": pa.array([1, 0], pa.int32()),
            "advantages": pa.array([[1.0] * 3, [-1.0] * 2], pa.list_(pa.float32())),
            "learner_logprobs": pa.array([[-0.5] * 3, [-0.25] * 2], pa.list_(pa.float32())),
        }
    )
    store = Store({"four": batch(4), "five": batch(5), "records": learner})
    group = ScoredGroup(
        info(4, payload="four"), {"exact": np.array([1, 0], np.float32)}, np.array([1, 0], np.float32), np.array([True, True])
    )
    told = Archive(tmp_path, store, Buffer(), arrow.encode_records, fetch_s=1.0).write(2, LearnBatch(1, 3, (group,)), ["records", None])
    found = read_rollouts(tmp_path).to_pylist()
    assert [(r["id"], r["advantage"], r["reason"]) for r in found] == [
        ("4/0", -1.0, None),
        ("4/1", 1.0, None),
        ("5/0", None, "zero_variance"),
        ("5/1", None, "zero_variance"),
    ]
    assert [r["rewards"][0]["value"] for r in found] == [1.0, 0.0, 1.0, 1.0]
    assert found[2]["components"] == [("exact", 1.0)] and found[2]["reward"] is None
    assert told["archive/forgotten_groups"] == 3 and told["archive/bytes"] == (tmp_path / "step-00000002.parquet").stat().st_size


def test_of_a_batch_of_fragments_one_is_kept_with_what_the_learner_told_of_its_frames(tmp_path):
    def payload(ordinal):
        columns = {"ordinal": pa.array([ordinal], pa.int64()), "rewards": pa.array([[0.5, 1.0]], pa.list_(pa.float32()))}
        schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata={b"rayrl.schema": b"fragment/1"})
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)

    told = pa.RecordBatch.from_pydict(
        {"ordinal": pa.array([9, 4], pa.int64()), "sample": pa.array([0, 0], pa.int32()), "intrinsic": pa.array([[7.0], [0.25, 0.5]])}
    )
    store = Store({"four": payload(4), "nine": payload(9), "five": batch(5), "records": told})
    groups = tuple(ScoredGroup(info(o, 1, p), {}, np.zeros(1, np.float32), np.ones(1, bool)) for o, p in [(4, "four"), (9, "nine")])
    archive = Archive(tmp_path / "rollouts", store, Buffer(), arrow.encode_records, fetch_s=1.0)
    assert archive.write(2, LearnBatch(1, 3, groups), ["records"])["archive/bytes"] > 0
    [part] = (tmp_path / "fragments").iterdir()
    table = pq.read_table(part)
    assert table.to_pylist() == [{"step": 2, "version": 3, "intrinsic": [0.25, 0.5], "ordinal": 4, "rewards": [0.5, 1.0]}]
    assert table.schema.metadata[b"rayrl.schema"] == b"fragment/1"


def test_of_a_long_run_of_an_agent_a_bounded_number_of_excerpts_is_kept():
    kept = [step for step in range(1, 100_001) if keeps(step)]
    assert kept[:12] == [*range(1, 11), 20, 30] and len(kept) < 100
