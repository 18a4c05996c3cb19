"""Keeps every trajectory that was trained on. A role of its own, so that neither driver nor learner waits for a disk."""

from __future__ import annotations

from pathlib import Path

from rayrl.protocols import Store
from rayrl.telemetry.rollouts import RolloutWriter
from rayrl.types import LearnBatch


class Archive:
    def __init__(self, folder: Path, store: Store, *, fetch_s: float) -> None:
        self._writer, self._store, self._fetch_s = RolloutWriter(folder), store, fetch_s

    def write(self, step: int, batch: LearnBatch) -> int:
        """Writes one step's batch and returns the bytes on disk. Raises `StorageError`."""
        batches = [self._store.get(g.info.payload, timeout_s=self._fetch_s) for g in batch.groups]
        path = self._writer.write(
            step,
            batch.version,
            batches,
            [g.rewards for g in batch.groups],
            [g.kept for g in batch.groups],
            components=[g.components for g in batch.groups],
        )
        return path.stat().st_size
