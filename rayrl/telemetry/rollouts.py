"""Every trained trajectory on disk: Parquet parts that any reader can open while the run goes on.

A part holds the trajectories of one step, in front those that were trained on, then those of groups that were dropped since the step
before (a bounded number). Columns: those of the groups' record batches (data/arrow.py), and before them

``step`` int64, ``version`` int64 (weights that were trained), ``reward`` float32 (null: never aggregated), ``advantage`` float32 (mean
over action tokens; null: not trained on), ``kept`` bool, ``reason`` string (why it was not trained on; null: it was), ``components``
map<string, float32> (null where a score failed), ``staleness`` int32 (versions), ``length`` int32 (action tokens), ``gap`` float32
(mean |learner - behaviour log-prob| over action tokens, nats; null: unknown), and per action token ``advantages`` and
``learner_logprobs`` list<float32> (empty: unknown). Scalars come first and are small: an index over a run reads only them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rayrl.telemetry.files import replace_atomically
from rayrl.types import BoolArray, FloatArray, GroupInfo, RewardRecord

FORMAT = b"2"
_COMPONENTS = pa.map_(pa.string(), pa.float32())
_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True)
class Tokens:
    """What the learner knew of one trajectory's action tokens: float32[A] each, or empty."""

    advantages: FloatArray
    learner_logprobs: FloatArray


@dataclass(frozen=True)
class GroupRows:
    """One group as it goes to disk. Arrays run over its n samples."""

    info: GroupInfo
    payload: pa.RecordBatch
    rewards: FloatArray | None = None
    """float32[n]; None where they were never aggregated."""
    kept: BoolArray | None = None
    """bool[n]; None: the whole group was dropped."""
    reason: str = ""
    """Why the group was dropped; empty when it was trained on."""
    components: Mapping[str, FloatArray] = field(default_factory=dict)
    """float32[n] per reward component, NaN where it failed."""
    records: Sequence[Sequence[RewardRecord]] = ()
    """One list per sample; empty where nobody remembers."""
    tokens: Sequence[Tokens | None] = ()
    """One per sample, None for those that were not trained on; empty where nothing is known."""


class RolloutWriter:
    """Writes one part per step; a step written again (after a resume) replaces its part."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def write(
        self,
        step: int,
        version: int,
        groups: Sequence[GroupRows],
        encode_records: Callable[[Sequence[Sequence[RewardRecord]]], pa.Array] | None = None,
    ) -> Path:
        """``encode_records`` makes the column ``rewards`` (`data.arrow.encode_records`); None leaves the payload's.

        Raises `ValueError` for lengths that disagree, `StorageError` when the folder cannot be written.
        """
        table = pa.Table.from_batches([g.payload for g in groups])
        columns = _Columns(step, version)
        for group in groups:
            columns.add(group)
        for position, (name, column) in enumerate(columns.arrays().items()):
            table = table.add_column(position, name, column)
        if encode_records is not None:
            place = table.schema.get_field_index("rewards")
            table = table.set_column(place, "rewards", encode_records(columns.records))
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"rayrl.rollouts": FORMAT})
        path = self.folder / f"step-{step:08d}.parquet"
        # Dictionaries and statistics only where a reader gains from them: they cost a third of the writing.
        write = lambda temporary: pq.write_table(
            table,
            temporary,
            compression="zstd",
            use_dictionary=["task", "finish_reason", "prompt_text", "reason"],
            write_statistics=["step"],
        )
        replace_atomically(path, write)
        return path


class _Columns:
    """The columns in front, grown group by group."""

    def __init__(self, step: int, version: int) -> None:
        self._step, self._version = step, version
        self.records: list[Sequence[RewardRecord]] = []
        self._rows: list[dict] = []
        self._tokens: list[Tokens] = []
        self._components: list[list[tuple[str, float | None]]] = []

    def add(self, group: GroupRows) -> None:
        n = group.payload.num_rows
        for name, values in [("reward", group.rewards), ("kept", group.kept), *group.components.items()]:
            if values is not None and len(values) != n:
                raise ValueError(f"step {self._step}: {len(values)} values of {name!r} for {n} trajectories of prompt {group.info.ordinal}")
        kept = np.zeros(n, np.bool_) if group.kept is None else group.kept
        behavior = _action_logprobs(group.payload) if any(group.tokens) else []
        for i in range(n):
            tokens = group.tokens[i] if group.tokens and group.tokens[i] is not None else Tokens(_NOTHING, _NOTHING)
            records = group.records[i] if i < len(group.records) else ()
            known = len(tokens.learner_logprobs) > 0
            self._rows.append(
                {
                    "reward": None if group.rewards is None or not (kept[i] or group.kept is None) else float(group.rewards[i]),
                    "advantage": _mean(tokens.advantages) if len(tokens.advantages) else None,
                    "kept": bool(kept[i]),
                    "reason": None if kept[i] else group.reason or _why(records),
                    "staleness": self._version - group.info.oldest_version,
                    "length": int(group.info.action_tokens[i]),
                    "gap": _mean(np.abs(tokens.learner_logprobs - behavior[i])) if known else None,
                }
            )
            self._tokens.append(tokens)
            self.records.append(records)
        rows = zip(*[[(k, None if np.isnan(v) else float(v)) for v in vs] for k, vs in sorted(group.components.items())], strict=True)
        self._components += [list(row) for row in rows] if group.components else [[] for _ in range(n)]

    def arrays(self) -> dict[str, pa.Array]:
        rows, column = self._rows, lambda name, kind: pa.array([row[name] for row in self._rows], kind)
        return {
            "step": pa.array(np.full(len(rows), self._step, np.int64)),
            "version": pa.array(np.full(len(rows), self._version, np.int64)),
            "reward": column("reward", pa.float32()),
            "advantage": column("advantage", pa.float32()),
            "kept": column("kept", pa.bool_()),
            "reason": column("reason", pa.string()),
            "components": pa.array(self._components, _COMPONENTS),
            "staleness": column("staleness", pa.int32()),
            "length": column("length", pa.int32()),
            "gap": column("gap", pa.float32()),
            "advantages": _ragged([t.advantages for t in self._tokens]),
            "learner_logprobs": _ragged([t.learner_logprobs for t in self._tokens]),
        }


def read_rollouts(folder: Path | str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
    """All parts (or one step), in order of step; ``columns`` None reads all."""
    where = None if step is None else ds.field("step") == step
    return ds.dataset(folder, format="parquet").to_table(columns=None if columns is None else list(columns), filter=where)


def _mean(values: np.ndarray) -> float:
    """Of a short array; `ndarray.mean` takes five times as long."""
    return float(np.add.reduce(values)) / len(values)


def _why(records: Sequence[RewardRecord]) -> str:
    """Why one sample of a trained group was left out."""
    failed = [record.component for record in records if record.value is None]
    return f"no score: {', '.join(failed)}" if failed else "aborted"


def _action_logprobs(payload: pa.RecordBatch) -> list[np.ndarray]:
    """float32[A] per trajectory: behaviour log-probs of its action tokens."""
    masks, logprobs = lists(payload.column("action_mask")), lists(payload.column("behavior_logprobs"))
    return [values[mask.view(np.bool_)] for values, mask in zip(logprobs, masks, strict=True)]


def lists(column: pa.ListArray) -> list[np.ndarray]:
    """Zero-copy views of a ragged column, one per row."""
    values, offsets = column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
    return [values[a:b] for a, b in pairwise(offsets)]


def _ragged(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(a) for a in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([_NOTHING, *arrays]).astype(np.float32, copy=False)))
