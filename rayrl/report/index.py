"""All trajectories of a run as a few small columns, read from Parquet without touching a token where the parts allow it.

Legend: ``N`` trajectories. Columns are numpy arrays of length N; texts are codes into a list of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SCALARS = ("step", "version", "reward", "advantage", "kept", "reason", "components", "staleness", "length", "gap")
_LIGHT = (*_SCALARS, "id", "ordinal", "sample", "finish_reason", "task", "prompt_text")
_READERS = 4
T = TypeVar("T")
NO_TRAJECTORIES = "no trajectories were written"


class Texts(NamedTuple):
    """A column of few different texts."""

    codes: np.ndarray
    """int32[N], -1 where there is none."""
    labels: list[str]


@dataclass
class Index:
    """See the module docstring. Row ``i`` lies in ``parts[part[i]]`` at ``row[i]``."""

    parts: list[Path]
    part: np.ndarray
    row: np.ndarray
    numbers: dict[str, np.ndarray]
    """step, version, ordinal, sample, staleness, length (int32[N]); reward, advantage, gap (float32[N], NaN unknown); kept (uint8[N])."""
    texts: dict[str, Texts]
    """task, finish, reason, prompt."""
    components: dict[str, np.ndarray]
    """float32[N] per reward component, NaN where there is no score."""
    missing: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.part)

    @property
    def trained(self) -> np.ndarray:
        """bool[N]: kept trajectories of batches."""
        return self.numbers["kept"].astype(bool)


def read_index(folder: Path, known: Index | None = None) -> Index:
    """Over all complete parts of a run's rollouts folder. ``known`` is returned again while no part has been added or changed."""
    parts = sorted(folder.glob("step-*.parquet")) if folder.is_dir() else []
    if known is not None and parts == known.parts:
        return known
    missing: list[str] = [] if parts else [NO_TRAJECTORIES]
    tables = side_by_side(_read_part, parts)
    broken = [path.name for path, table in zip(parts, tables, strict=True) if table is None]
    if broken:
        missing.append(f"{len(broken)} part(s) of the trajectories cannot be read, the first is {broken[0]}")
    good = [(i, table) for i, table in enumerate(tables) if table is not None]
    if not good:
        return Index(parts, np.empty(0, np.int32), np.empty(0, np.int32), _no_numbers(), _no_texts(), {}, missing)
    part = np.concatenate([np.full(table.num_rows, i, np.int32) for i, table in good])
    row = np.concatenate([np.arange(table.num_rows, dtype=np.int32) for _, table in good])
    table = pa.concat_tables([table for _, table in good], promote_options="permissive").combine_chunks()
    if _absent(table, "gap"):
        missing.append("the trajectories were written by an older version: no per-token advantages, learner log-probs or reward records")
    return Index(parts, part, row, _numbers(table), _all_texts(table), _components(table), missing)


def side_by_side(read: Callable[[Path], T], parts: Sequence[Path]) -> list[T]:
    """What ``read`` says of each part, in their order; Parquet is decoded outside the interpreter's lock."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, parts))


def _read_part(path: Path) -> pa.Table | None:
    """The light columns of one part; None where it cannot be read. Older parts lack some: those are computed."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            table = file.read([name for name in _LIGHT if name in names], use_threads=False)
        for name in ("length", "staleness"):
            if name not in names:
                table = table.append_column(name, _computed(path, name, table))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return table.replace_schema_metadata(None)


def _computed(path: Path, name: str, table: pa.Table) -> pa.Array:
    if name == "length":
        masks = pq.read_table(path, columns=["action_mask"]).column(0).combine_chunks()
        ends = np.cumsum(np.concatenate([[0], masks.values.to_numpy()]))
        offsets = masks.offsets.to_numpy()
        return pa.array((ends[offsets[1:]] - ends[offsets[:-1]]).astype(np.int32))
    spans = pq.read_table(path, columns=["version_spans"]).column(0).to_pylist()
    versions = table.column("version").to_pylist()
    return pa.array([v - min(s[::3], default=v) for v, s in zip(versions, spans, strict=True)], pa.int32())


def _absent(table: pa.Table, name: str) -> bool:
    return name not in table.column_names or table.column(name).null_count == table.num_rows


def _number(table: pa.Table, name: str, dtype: type) -> np.ndarray:
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan if dtype is np.float32 else 0, dtype)
    column = table.column(name)
    column = column if dtype is np.float32 else pc.fill_null(column, False if dtype is np.uint8 else 0)
    return column.to_numpy().astype(dtype)


def _numbers(table: pa.Table) -> dict[str, np.ndarray]:
    numbers = {name: _number(table, name, np.int32) for name in ("step", "version", "ordinal", "sample", "staleness", "length")}
    numbers |= {name: _number(table, name, np.float32) for name in ("reward", "advantage", "gap")}
    return numbers | {"kept": _number(table, "kept", np.uint8)}


def _no_numbers() -> dict[str, np.ndarray]:
    return _numbers(pa.table({"kept": pa.array([], pa.bool_())}))


def _all_texts(table: pa.Table) -> dict[str, Texts]:
    return {
        name: _texts(table, column)
        for name, column in (("task", "task"), ("finish", "finish_reason"), ("reason", "reason"), ("prompt", "prompt_text"))
    }


def _no_texts() -> dict[str, Texts]:
    return {name: Texts(np.empty(0, np.int32), []) for name in ("task", "finish", "reason", "prompt")}


def _texts(table: pa.Table, name: str) -> Texts:
    if _absent(table, name):
        return Texts(np.full(table.num_rows, -1, np.int32), [])
    encoded = pc.dictionary_encode(table.column(name).cast(pa.string())).combine_chunks()
    return Texts(pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int32), encoded.dictionary.to_pylist())


def _components(table: pa.Table) -> dict[str, np.ndarray]:
    if _absent(table, "components"):
        return {}
    column = table.column("components").combine_chunks()
    names: Sequence[str] = pc.unique(column.keys).to_pylist()
    return {name: pc.map_lookup(column, name, "first").to_numpy(zero_copy_only=False).astype(np.float32) for name in sorted(names)}
