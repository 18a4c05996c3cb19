"""Every trained trajectory on disk: Parquet parts that any reader can open while the run goes on.

A part holds the trajectories of one step: the columns of the groups' record batches (data/arrow.py) and, in front of them,
``step`` int64, ``version`` int64, ``reward`` float32, ``advantage`` float32 (null where unknown), ``kept`` bool, ``components``
map<string, float32> (reward by component; null where its score failed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rayrl.telemetry.files import replace_atomically
from rayrl.types import BoolArray, FloatArray

_COMPONENTS = pa.map_(pa.string(), pa.float32())


class RolloutWriter:
    """Writes one part per step; a step written again (after a resume) replaces its part."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def write(
        self,
        step: int,
        version: int,
        batches: Sequence[pa.RecordBatch],
        rewards: Sequence[FloatArray],
        kept: Sequence[BoolArray],
        advantages: Sequence[FloatArray] | None = None,
        components: Sequence[Mapping[str, FloatArray]] | None = None,
    ) -> Path:
        """One record batch, one float32[n] of rewards, one bool[n] (and one float32[n] of advantages, one mapping of components) per group.

        Raises `ValueError` for lengths that disagree, `StorageError` when the folder cannot be written.
        """
        table = pa.Table.from_batches(batches)
        rows = table.num_rows
        columns = {
            "step": pa.array(np.full(rows, step, dtype=np.int64)),
            "version": pa.array(np.full(rows, version, dtype=np.int64)),
            "reward": pa.array(_joined(rewards, np.float32)),
            "advantage": pa.nulls(rows, pa.float32()) if advantages is None else pa.array(_joined(advantages, np.float32)),
            "kept": pa.array(_joined(kept, np.bool_)),
            "components": _maps(components) if components is not None else pa.nulls(rows, _COMPONENTS),
        }
        for position, (name, column) in enumerate(columns.items()):
            if len(column) != rows:
                raise ValueError(f"step {step}: {len(column)} values of {name!r} for {rows} trajectories")
            table = table.add_column(position, name, column)
        path = self.folder / f"step-{step:08d}.parquet"
        replace_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
        return path


def read_rollouts(folder: Path | str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
    """All parts (or one step), in order of step; ``columns`` None reads all."""
    where = None if step is None else ds.field("step") == step
    return ds.dataset(folder, format="parquet").to_table(columns=None if columns is None else list(columns), filter=where)


def _maps(components: Sequence[Mapping[str, FloatArray]]) -> pa.MapArray:
    """One map per trajectory from one mapping of float32[n] per group; NaN becomes null."""
    rows = []
    for group in components:
        columns = [[(name, None if np.isnan(v) else float(v)) for v in values] for name, values in sorted(group.items())]
        rows += [list(row) for row in zip(*columns, strict=True)]
    return pa.array(rows, _COMPONENTS)


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(a, dtype=dtype) for a in arrays]) if arrays else np.empty(0, dtype)
