"""The groups that a buffer holds, at rest: an Arrow stream with one record batch per group, its payload inside.

So a commit keeps what was generated and scored, and a continued run starts with a full buffer. Reading it executes no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayrl.buffer.scoring import Records
from rayrl.data.arrow import decode_records, encode_records
from rayrl.errors import CheckpointError, RoleFailed
from rayrl.types import GroupInfo

_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("nbytes", pa.int64()),
        ("lengths", pa.list_(pa.int32())),
        ("action_tokens", pa.list_(pa.int32())),
        ("oldest_version", pa.int64()),
        ("newest_version", pa.int64()),
        ("task", pa.string()),
        ("finish_reasons", pa.list_(pa.string())),
        ("answered", pa.list_(pa.string())),
        ("records", pa.list_(encode_records([]).type)),
        ("payload", pa.large_binary()),  # an Arrow stream of its own: trajectories or a fragment
    ],
    metadata={b"rayrl.schema": b"held/1"},
)
_PLAIN = ("ordinal", "nbytes", "oldest_version", "newest_version", "task")


@dataclass(frozen=True)
class Held:
    """One group that is generated and not finished."""

    info: GroupInfo
    records: Records
    """What is known of its rewards, one list per sample."""
    answered: frozenset[str]
    """Scoring jobs that have answered."""


def write(path: Path, groups: Iterable[Held], fetch: Callable[[Any], pa.RecordBatch]) -> int:
    """Returns how many were written. A payload that is lost with its node is left out: such a group is generated again."""
    written = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
        for group in groups:
            try:
                payload = fetch(group.info.payload)
            except RoleFailed:
                continue
            stream.write_batch(_encode(group, payload))
            written += 1
    return written


def read(path: Path, keep: Callable[[pa.RecordBatch], Any]) -> Iterator[Held]:
    """``keep`` stores a payload and returns its reference. Raises `CheckpointError` for a file that `write` did not finish."""
    try:
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
            if not stream.schema.equals(_SCHEMA, check_metadata=True):
                raise CheckpointError(f"{path} holds other groups than this rayrl knows", "resume with the rayrl that wrote it")
            for batch in stream:
                yield _decode(batch, keep)
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "resume from an older commit") from error


def _encode(group: Held, payload: pa.RecordBatch) -> pa.RecordBatch:
    sink, info = pa.BufferOutputStream(), group.info
    with pa.ipc.new_stream(sink, payload.schema) as stream:
        stream.write_batch(payload)
    columns: dict[str, Any] = {name: [getattr(info, name)] for name in _PLAIN}
    columns |= {
        "lengths": [info.lengths.tolist()],
        "action_tokens": [info.action_tokens.tolist()],
        "finish_reasons": [list(info.finish_reasons)],
        "answered": [sorted(group.answered)],
        "payload": [sink.getvalue().to_pybytes()],
    }
    arrays = {name: pa.array(values, _SCHEMA.field(name).type) for name, values in columns.items()}
    records = encode_records(list(group.records))
    arrays["records"] = pa.ListArray.from_arrays(pa.array([0, len(records)], pa.int32()), records)
    return pa.RecordBatch.from_arrays([arrays[name] for name in _SCHEMA.names], schema=_SCHEMA)


def _decode(batch: pa.RecordBatch, keep: Callable[[pa.RecordBatch], Any]) -> Held:
    row = batch.drop_columns(["records", "payload"]).to_pylist()[0]
    with pa.ipc.open_stream(pa.py_buffer(batch.column("payload")[0].as_py())) as stream:
        payload = stream.read_next_batch()
    info = GroupInfo(
        payload=keep(payload),
        lengths=np.array(row["lengths"], np.int32),
        action_tokens=np.array(row["action_tokens"], np.int32),
        finish_reasons=tuple(row["finish_reasons"]),
        **{name: row[name] for name in _PLAIN},
    )
    return Held(info, decode_records(batch.column("records")[0].values), frozenset(row["answered"]))
