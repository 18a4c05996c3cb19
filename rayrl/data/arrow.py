"""Trajectories as Arrow record batches: the form in which they travel between roles and rest in Parquet.

Encoding a group copies each array once; decoding is zero-copy: the arrays of a decoded `Trajectory` are read-only views of
the batch's buffers (and so of shared memory, when the batch came out of the object store).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter

import numpy as np
import pyarrow as pa

from rayrl.types import FinishReason, RewardRecord, RewardStatus, Trajectory, VersionSpan

_REWARD = pa.struct(
    [
        ("component", pa.string()),
        ("status", pa.string()),
        ("value", pa.float64()),
        ("step_values", pa.list_(pa.float64())),
        ("producer", pa.string()),
        ("producer_version", pa.string()),
        ("latency_s", pa.float32()),
        ("cost_usd", pa.float64()),
        ("error", pa.string()),
        ("answer", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("ordinal", pa.int64()),
        ("sample", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("action_mask", pa.list_(pa.uint8())),
        ("behavior_logprobs", pa.list_(pa.float32())),
        ("version_spans", pa.list_(pa.int64())),  # flat triples version, start, end
        ("turns", pa.list_(pa.int32())),  # flat pairs start, end
        ("finish_reason", pa.string()),
        ("task", pa.string()),
        ("text", pa.string()),
        ("prompt_text", pa.string()),
        ("ground_truth", pa.string()),
        ("metadata", pa.string()),  # JSON
        ("rewards", pa.list_(_REWARD)),
    ],
    metadata={b"rayrl.schema": b"trajectory/1"},
)


def encode(trajectories: Sequence[Trajectory]) -> pa.RecordBatch:
    """One record batch of `SCHEMA`, one row per trajectory."""
    ts = trajectories
    columns = [
        pa.array([t.id for t in ts], pa.string()),
        pa.array([t.ordinal for t in ts], pa.int64()),
        pa.array([t.sample for t in ts], pa.int32()),
        _ragged([t.token_ids for t in ts], np.int32),
        _ragged([t.action_mask for t in ts], np.uint8),
        _ragged([t.behavior_logprobs for t in ts], np.float32),
        _ragged([np.asarray(t.version_spans, dtype=np.int64).reshape(-1) for t in ts], np.int64),
        _ragged([np.asarray(t.turns, dtype=np.int32).reshape(-1) for t in ts], np.int32),
        pa.array([str(t.finish_reason) for t in ts], pa.string()),
        pa.array([t.task for t in ts], pa.string()),
        pa.array([t.text for t in ts], pa.string()),
        pa.array([t.prompt_text for t in ts], pa.string()),
        pa.array([t.ground_truth for t in ts], pa.string()),
        pa.array([json.dumps(dict(t.metadata)) if t.metadata else "" for t in ts], pa.string()),
        encode_records([t.rewards for t in ts]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def encode_records(records: Sequence[Sequence[RewardRecord]]) -> pa.ListArray:
    """The column ``rewards``: one list of records per trajectory."""
    offsets = np.zeros(len(records) + 1, np.int32)
    np.cumsum([len(sample) for sample in records], out=offsets[1:])
    flat = [record for sample in records for record in sample]
    columns = [pa.array(list(map(attrgetter(field.name), flat)), field.type) for field in _REWARD]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(columns, fields=list(_REWARD)))


def decode_records(column: pa.ListArray) -> list[list[RewardRecord]]:
    """Inverse of `encode_records`."""
    return [[_reward_record(row) for row in sample] for sample in column.to_pylist()]


def decode(batch: pa.RecordBatch) -> list[Trajectory]:
    """Inverse of `encode`. Raises `ValueError` for another schema."""
    if not batch.schema.equals(SCHEMA):
        raise ValueError(f"not a trajectory batch: schema is {batch.schema.names}")
    ids, masks, logprobs = (split(batch, name) for name in ("token_ids", "action_mask", "behavior_logprobs"))
    spans, turns = split(batch, "version_spans"), split(batch, "turns")
    light = batch.select(["id", "ordinal", "sample", "finish_reason", "task", "text", "prompt_text", "ground_truth", "metadata", "rewards"])
    return [
        Trajectory(
            id=row["id"],
            ordinal=row["ordinal"],
            sample=row["sample"],
            token_ids=ids[i],
            action_mask=masks[i].view(np.bool_),
            behavior_logprobs=logprobs[i],
            version_spans=tuple(VersionSpan(*map(int, s)) for s in spans[i].reshape(-1, 3)),
            turns=tuple((int(a), int(b)) for a, b in turns[i].reshape(-1, 2)),
            finish_reason=FinishReason(row["finish_reason"]),
            task=row["task"],
            text=row["text"],
            prompt_text=row["prompt_text"],
            ground_truth=row["ground_truth"],
            metadata=json.loads(row["metadata"]) if row["metadata"] else {},
            rewards=tuple(_reward_record(r) for r in row["rewards"] or ()),
        )
        for i, row in enumerate(light.to_pylist())
    ]


def split(batch: pa.RecordBatch, name: str) -> list[np.ndarray]:
    """Zero-copy numpy views of one ragged column, one array per row."""
    column = batch.column(name)
    values, offsets = column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
    return [values[a:b] for a, b in pairwise(offsets)]


def _ragged(arrays: Sequence[np.ndarray], dtype: type) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([a.shape[0] for a in arrays], out=offsets[1:])
    flat = np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.empty(0, dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _reward_record(row: dict) -> RewardRecord:
    steps = row["step_values"]
    return RewardRecord(**{**row, "status": RewardStatus(row["status"]), "step_values": tuple(steps) if steps is not None else None})
