"""Excerpts of what environment agents lived through: one fragment of a step, for some steps, as Parquet.

A part is one row in the columns of the fragment's record batch (data/fragment_arrow.py) and, before them, ``step`` int64, ``version``
int64, and whatever lists the learner tells of its frames (time-major, T x K), for example ``intrinsic``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrl.telemetry.files import replace_atomically

_EVERY = ((10, 1), (100, 10), (1_000, 50), (10_000, 500))


def keeps(step: int) -> bool:
    """Every step at first, then ever fewer, so that a long run keeps some hundred excerpts."""
    return step % next((every for limit, every in _EVERY if step <= limit), 5_000) == 0


def is_fragment(payload: pa.RecordBatch) -> bool:
    return (payload.schema.metadata or {}).get(b"rayrl.schema", b"").startswith(b"fragment/")


class FragmentWriter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, step: int, version: int, payload: pa.RecordBatch, told: Mapping[str, np.ndarray]) -> Path:
        """``told``: float32 lists of the frames by name. Raises `StorageError`."""
        table = pa.Table.from_batches([payload])
        front = {"step": pa.array([step], pa.int64()), "version": pa.array([version], pa.int64())}
        front |= {name: pa.array([values.astype(np.float32)], pa.list_(pa.float32())) for name, values in told.items()}
        for position, (name, column) in enumerate(front.items()):
            table = table.add_column(position, name, column)
        path = self.folder / f"step-{step:08d}.parquet"
        replace_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
        return path
