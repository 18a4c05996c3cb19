"""How a packed weight update leaves the learner: one carrier per `sync.transport`.

A round is ``begin``, ``add`` for every bucket while its tensors are whole, ``announce``. Here is the carrier that works
everywhere; the two that move bytes between GPUs are in vllm_transfer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from rayrl.config.schema import Config
from rayrl.learner.group import Group
from rayrl.protocols import Store
from rayrl.sync import plan
from rayrl.types import WeightUpdate


class Carrier(Protocol):
    """All ranks get the same calls in the same order."""

    def open(self, address: str, world_size: int) -> None:
        """Meets the engines at ``host:port``; ``world_size`` counts rank 0 of the learner and every engine worker."""

    def begin(self) -> None:
        """The buckets of the last round are about to be overwritten: returns when nobody reads them any more."""

    def add(self, layout: plan.Layout, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Packs bucket ``index``; its tensors are whole on rank 0."""

    def announce(self, layout: plan.Layout, version: int) -> WeightUpdate:
        """The update as engines get it (that of rank 0 counts)."""

    def release(self) -> None:
        """Engines have loaded the update: memory that only it needed may be freed."""

    def abandon(self) -> list[plan.Bucket]:
        """Gives up the engines it met; returns the buckets of the last round, where it still has them."""


class StoreCarrier:
    """Rank 0 puts every bucket into the object store once, whatever the number of engines."""

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._rank = store, rank
        self._refs: list[Any] = []
        self._digests: list[str] = []

    def open(self, address: str, world_size: int) -> None:
        """Nobody to meet."""

    def begin(self) -> None:
        self._refs, self._digests = [], []

    def add(self, layout: plan.Layout, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        if self._rank == 0:
            bucket = plan.pack_bucket(layout, index, tensors)
            self._digests.append(plan.digest(bucket))
            self._refs.append(self._store.put(bucket))

    def announce(self, layout: plan.Layout, version: int) -> WeightUpdate:
        return WeightUpdate(plan.manifest(layout, version, self._digests), self._refs)

    def release(self) -> None:
        """The references are let go with the next round."""

    def abandon(self) -> list[plan.Bucket]:
        return []


def build_carrier(config: Config, transport: str, store: Store, group: Group, device: torch.device) -> Carrier:
    """The carrier of ``transport`` (`placement.weight_transport`)."""
    if transport == "store":
        return StoreCarrier(store, group.rank)
    from rayrl.learner.vllm_transfer import IpcCarrier, NcclCarrier

    if transport == "ipc":
        return IpcCarrier(group.rank, device)
    return NcclCarrier(group.rank, device, buffer_bytes=config.sync.bucket_mib * 2**20, limit_s=config.deadlines.sync_s)
