"""Fragments as Arrow record batches, one row each: the form in which they travel between roles and rest in Parquet.

Every array is one list column, flat; ``shapes`` (JSON) says how it folds. Encoding copies each array at most once; decoding is
zero-copy: arrays of a decoded `Fragment` are read-only views of the batch's buffers, and so of shared memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import pyarrow as pa

from rayrl.agent_types import EpisodeRecord, Fragment
from rayrl.types import VersionSpan

SCHEMA_NAME = b"fragment/1"
_OBSERVATION, _FINAL = "obs.", "final."
_ARRAYS = ("state", "actions", "logprobs", "rewards", "terminated", "truncated", "final_steps", "final_envs")
_MESSAGES = ("message_hash", "message_count", "next_hash", "next_count")
_EPISODE = pa.struct(
    [
        ("env", pa.int32()),
        ("episode", pa.int64()),
        ("seed", pa.int64()),
        ("total_reward", pa.float64()),
        ("length", pa.int64()),
        ("end", pa.string()),
        ("sums", pa.map_(pa.string(), pa.float64())),
    ]
)


def encode(fragment: Fragment) -> pa.RecordBatch:
    """One row. Fragments of environments with equal observations have equal schemas."""
    arrays = {name: getattr(fragment, name) for name in (*_ARRAYS, *_MESSAGES)}
    arrays |= {_OBSERVATION + name: array for name, array in fragment.observations.items()}
    arrays |= {_FINAL + name: array for name, array in fragment.final_observations.items()}
    episodes = [{field.name: getattr(e, field.name) for field in fields(e)} | {"sums": sorted(e.sums.items())} for e in fragment.episodes]
    columns = {
        "ordinal": pa.array([fragment.ordinal], pa.int64()),
        "shapes": pa.array([json.dumps({name: array.shape for name, array in arrays.items()})], pa.string()),
        "version_spans": _flat(np.asarray(fragment.version_spans, dtype=np.int64)),
        "text_hashes": _flat(np.fromiter(fragment.texts, dtype=np.uint64, count=len(fragment.texts))),
        "texts": pa.array([list(fragment.texts.values())], pa.list_(pa.binary())),
        "episodes": pa.array([episodes], pa.list_(_EPISODE)),
    } | {name: _flat(array) for name, array in arrays.items()}
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata={b"rayrl.schema": SCHEMA_NAME})
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


def decode(batch: pa.RecordBatch) -> Fragment:
    """Inverse of `encode`. Raises `ValueError` for anything but one fragment."""
    if (batch.schema.metadata or {}).get(b"rayrl.schema") != SCHEMA_NAME or batch.num_rows != 1:
        raise ValueError(f"not one fragment: {batch.num_rows} rows of {batch.schema.names}")
    shapes = json.loads(batch.column("shapes")[0].as_py())
    arrays = {name: _array(batch, name).reshape(shape) for name, shape in shapes.items()}
    for name in ("terminated", "truncated"):
        arrays[name] = arrays[name].view(np.bool_)
    for row, rows in (("next_hash", "message_hash"), ("next_count", "message_count")):  # older archives do not have the former
        arrays.setdefault(row, np.zeros_like(arrays[rows][0]))
    hashes, texts = _array(batch, "text_hashes").tolist(), batch.column("texts")[0].as_py()
    return Fragment(
        ordinal=batch.column("ordinal")[0].as_py(),
        observations=_named(arrays, _OBSERVATION),
        final_observations=_named(arrays, _FINAL),
        version_spans=tuple(VersionSpan(*map(int, span)) for span in _array(batch, "version_spans").reshape(-1, 3)),
        texts=dict(zip(hashes, texts, strict=True)),
        episodes=tuple(EpisodeRecord(**{**row, "sums": dict(row["sums"])}) for row in batch.column("episodes")[0].as_py()),
        **{name: arrays[name] for name in (*_ARRAYS, *_MESSAGES)},
    )


def _flat(array: np.ndarray) -> pa.ListArray:
    values = np.ascontiguousarray(array).reshape(-1)
    values = values.view(np.uint8) if values.dtype == np.bool_ else values
    return pa.ListArray.from_arrays(pa.array([0, values.size], pa.int32()), pa.array(values))


def _array(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    start, end = column.offsets.to_numpy(zero_copy_only=True)[:2]
    return column.values.to_numpy(zero_copy_only=True)[start:end]


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
