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
_NOTHING = np.empty(0, np.float32)
Records = Sequence[RewardRecord]


@dataclass(frozen=True)
class Tokens:
    """What the learner knew of one trajectory's action tokens: float32[A] each, or empty."""

    advantages: FloatArray
    learner_logprobs: FloatArray


_UNKNOWN = Tokens(_NOTHING, _NOTHING)


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
        table = pa.Table.from_batches([g.payload for g in groups]).combine_chunks()
        columns, records = _columns(step, version, groups, table)
        table = pa.table(columns | dict(zip(table.column_names, table.columns, strict=True)), metadata=table.schema.metadata)
        if encode_records is not None:
            place = table.schema.get_field_index("rewards")
            table = table.set_column(place, "rewards", encode_records(records))
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


def _columns(step: int, version: int, groups: Sequence[GroupRows], table: pa.Table) -> tuple[dict[str, pa.Array], list[Records]]:
    """The columns in front, and one list of reward records per row. ``table``: the payloads, one after the other.

    No loop over tokens and little work per row: this runs beside training, on cores that training could use.
    """
    sizes = [_checked(step, group) for group in groups]
    whole = [group.kept is None for group in groups]
    kept = _joined([np.zeros(n, np.bool_) if g.kept is None else g.kept for g, n in zip(groups, sizes, strict=True)], np.bool_)
    known = _joined([np.full(n, g.rewards is not None) for g, n in zip(groups, sizes, strict=True)], np.bool_) & (
        kept | np.repeat(whole, sizes)
    )
    rewards = _joined([np.zeros(n) if g.rewards is None else g.rewards for g, n in zip(groups, sizes, strict=True)], np.float32)
    records = [g.records[i] if i < len(g.records) else () for g, n in zip(groups, sizes, strict=True) for i in range(n)]
    reasons = [group.reason for group, n in zip(groups, sizes, strict=True) for _ in range(n)]
    tokens = [t or _UNKNOWN for g, n in zip(groups, sizes, strict=True) for t in (g.tokens or (None,) * n)]
    advantages, learner = _ragged([t.advantages for t in tokens]), _ragged([t.learner_logprobs for t in tokens])
    return {
        "step": pa.array(np.full(len(kept), step, np.int64)),
        "version": pa.array(np.full(len(kept), version, np.int64)),
        "reward": pa.array(rewards, mask=~known),
        "advantage": _means(advantages),
        "kept": pa.array(kept),
        "reason": pa.array(
            [None if k else reason or _why(rs) for k, reason, rs in zip(kept.tolist(), reasons, records, strict=True)], pa.string()
        ),
        "components": _component_maps(groups, sizes),
        "staleness": pa.array(np.repeat([version - g.info.oldest_version for g in groups], sizes).astype(np.int32)),
        "length": pa.array(_joined([g.info.action_tokens for g in groups], np.int32)),
        "gap": _gaps(learner, table),
        "advantages": advantages,
        "learner_logprobs": learner,
    }, records


def _checked(step: int, group: GroupRows) -> int:
    """Its number of rows. Raises `ValueError` where something has another length."""
    n = group.payload.num_rows
    for name, values in [("reward", group.rewards), ("kept", group.kept), *group.components.items()]:
        if values is not None and len(values) != n:
            raise ValueError(f"step {step}: {len(values)} values of {name!r} for {n} trajectories of prompt {group.info.ordinal}")
    return n


def _component_maps(groups: Sequence[GroupRows], sizes: Sequence[int]) -> pa.MapArray:
    """Names in order; null where a score failed."""
    names = [sorted(group.components) for group in groups]
    offsets = np.concatenate([[0], np.cumsum(np.repeat([len(found) for found in names], sizes))]).astype(np.int32)
    keys = [name for found, n in zip(names, sizes, strict=True) for name in found * n]
    values = _joined(
        [np.stack([g.components[k] for k in found], -1).ravel() for g, found in zip(groups, names, strict=True) if found], np.float32
    )
    return pa.MapArray.from_arrays(offsets, pa.array(keys, pa.string()), pa.array(values, mask=np.isnan(values)))


def _gaps(learner: pa.ListArray, table: pa.Table) -> pa.Array:
    """Mean |learner - behaviour log-prob| of each row that the learner knew. Raises `ValueError` where the two disagree in length."""
    flat, lengths = learner.values.to_numpy(), np.diff(learner.offsets.to_numpy())
    if not len(flat):
        return pa.nulls(len(lengths), pa.float32())
    masks, behavior = (table.column(name).chunk(0) for name in ("action_mask", "behavior_logprobs"))
    acts, offsets = masks.values.to_numpy().view(np.bool_), masks.offsets.to_numpy()
    actions = np.diff(np.concatenate([[0], np.cumsum(acts)])[offsets])
    known = lengths > 0
    if not np.array_equal(lengths[known], actions[known]):
        raise ValueError("the learner's log-probs are not one per action token")
    chosen = behavior.values.to_numpy()[acts][np.repeat(known, actions)]
    return _means(_with_values(learner, np.abs(flat - chosen)))


def _means(column: pa.ListArray) -> pa.Array:
    """Of each list; null where it is empty."""
    offsets = column.offsets.to_numpy()
    full = offsets[1:] > offsets[:-1]
    means = np.zeros(len(full), np.float32)
    if full.any():
        means[full] = np.add.reduceat(column.values.to_numpy(), offsets[:-1][full]) / np.diff(offsets)[full]
    return pa.array(means, mask=~full)


def _with_values(column: pa.ListArray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(column.offsets, pa.array(values.astype(np.float32, copy=False)))


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)


def read_rollouts(folder: Path | str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
    """All parts (or one step), in order of step; ``columns`` None reads all."""
    where = None if step is None else ds.field("step") == step
    return ds.dataset(folder, format="parquet").to_table(columns=None if columns is None else list(columns), filter=where)


def _why(records: Sequence[RewardRecord]) -> str:
    """Why one sample of a trained group was left out."""
    failed = [record.component for record in records if record.value is None]
    return f"no score: {', '.join(failed)}" if failed else "aborted"


def lists(column: pa.ListArray) -> list[np.ndarray]:
    """Zero-copy views of a ragged column, one per row."""
    values, offsets = column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
    return [values[a:b] for a, b in pairwise(offsets)]


def _ragged(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(a) for a in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_joined(arrays, np.float32)))
