"""Keeps every trajectory that was trained on, and a bounded number of those that were not; of environment agents an excerpt.

A role of its own, so that neither driver nor learner waits for a disk. Payloads, reward records and token records come by reference or
from the buffer itself; the driver moves none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayrl.errors import PayloadLost, RayrlError, RoleFailed
from rayrl.protocols import ReplayBuffer, Store
from rayrl.telemetry.fragments import FragmentWriter, is_fragment
from rayrl.telemetry.process import resident_bytes
from rayrl.telemetry.rollouts import GroupRows, RolloutWriter, Tokens, lists
from rayrl.types import DroppedGroup, LearnBatch, Outcomes, RewardRecord

EncodeRecords = Callable[[Sequence[Sequence[RewardRecord]]], pa.Array]


class Archive:
    def __init__(self, folder: Path, store: Store, buffer: ReplayBuffer, encode_records: EncodeRecords, *, fetch_s: float) -> None:
        """``encode_records``: see `RolloutWriter.write`."""
        self._writer, self._store, self._buffer, self._fetch_s = RolloutWriter(folder), store, buffer, fetch_s
        self._fragments = FragmentWriter(folder.parent / "fragments")
        self._encode_records = encode_records
        self._lost = 0

    def write(self, step: int, batch: LearnBatch, token_records: Sequence[Any] = ()) -> dict[str, float]:
        """Writes one step's batch with the learner's ``token_records`` (one store reference or None per rank).

        Returns metrics of the archive itself: bytes on disk, steps that could not be written because their payloads died, processor
        seconds, groups that were dropped and not kept. Raises `StorageError`.
        """
        cpu = time.thread_time()
        try:
            outcomes = self._buffer.take_outcomes(batch.ordinals)
        except RoleFailed:  # the buffer died, and with it who rewarded these
            outcomes = Outcomes({}, ())
        try:
            records = [self._fetch(reference) for reference in token_records if reference is not None]
            nbytes = self._write(step, batch, outcomes, records).stat().st_size
        except PayloadLost as lost:  # the step is trained all the same
            print(f"step {step} is not written: {lost.message}", flush=True)
            nbytes, self._lost = 0, self._lost + 1
        return {
            "archive/bytes": float(nbytes),
            "archive/lost_steps": float(self._lost),
            "archive/cpu_s": time.thread_time() - cpu,
            "archive/forgotten_groups": float(outcomes.forgotten),
            "memory/archive_bytes": float(resident_bytes()),
        }

    def _write(self, step: int, batch: LearnBatch, outcomes: Outcomes, records: Sequence[pa.RecordBatch]) -> Path:
        first = self._fetch(batch.groups[0].info.payload)
        if is_fragment(first):
            told = _told(records, batch.groups[0].info.ordinal)
            return self._fragments.write(step, batch.version, first, told)
        tokens: dict[tuple[int, int], Tokens] = {}
        for part in records:
            tokens |= dict(_tokens(part))
        payloads = self._store.get_all([g.info.payload for g in batch.groups], timeout_s=self._fetch_s)
        groups = [
            GroupRows(
                g.info,
                payload,
                g.rewards,
                g.kept,
                components=g.components,
                records=outcomes.records.get(g.info.ordinal, ()),
                tokens=[tokens.get((g.info.ordinal, i)) for i in range(len(g.kept))],
            )
            for g, payload in zip(batch.groups, payloads, strict=True)
        ]
        groups += [rows for dropped in outcomes.dropped if (rows := self._dropped(dropped)) is not None]
        return self._writer.write(step, batch.version, groups, self._encode_records)

    def _fetch(self, reference: Any) -> pa.RecordBatch:
        return self._store.get(reference, timeout_s=self._fetch_s)

    def _dropped(self, group: DroppedGroup) -> GroupRows | None:
        """None where the payload is gone: nobody promised to keep it."""
        try:
            payload = self._fetch(group.info.payload)
        except RayrlError:
            return None
        return GroupRows(group.info, payload, group.rewards, reason=group.reason, components=_components(group), records=group.records)


def _components(group: DroppedGroup) -> dict[str, np.ndarray]:
    """float32[n] per component, as far as it was scored before the group was dropped."""
    if len(group.records) != len(group.info.lengths):
        return {}
    names = sorted({record.component for sample in group.records for record in sample})
    value = lambda sample, name: next((r.value for r in sample if r.component == name and r.value is not None), np.nan)
    return {name: np.array([value(sample, name) for sample in group.records], np.float32) for name in names}


def _told(records: Sequence[pa.RecordBatch], ordinal: int) -> dict[str, np.ndarray]:
    """What the learner tells of the frames of one fragment: every list column beside the keys."""
    for part in records:
        ordinals = part.column("ordinal").to_pylist()
        if ordinal in ordinals:
            row = ordinals.index(ordinal)
            names = [name for name in part.schema.names if pa.types.is_list(part.schema.field(name).type)]
            return {name: lists(part.column(name))[row] for name in names}
    return {}


def _tokens(records: pa.RecordBatch) -> Iterator[tuple[tuple[int, int], Tokens]]:
    """By (ordinal, sample)."""
    ordinals, samples = records.column("ordinal").to_pylist(), records.column("sample").to_pylist()
    advantages, logprobs = lists(records.column("advantages")), lists(records.column("learner_logprobs"))
    for i, key in enumerate(zip(ordinals, samples, strict=True)):
        yield key, Tokens(advantages[i], logprobs[i])
