"""From the learner's weights to proven weights on every engine.

The learner exports a version, every engine loads it between two of its steps and proves what it holds; only then does the
version count as published.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rayrl.config.schema import Config
from rayrl.errors import PayloadLost, RanksLost, RoleFailed
from rayrl.runtime.contract import Handle
from rayrl.runtime.pool import Joint, gather
from rayrl.types import IntArray, SyncReport, WeightUpdate
from rayrl.weight_check import WeightCheck

if TYPE_CHECKING:
    from rayrl.assembly import Roles


class Published(NamedTuple):
    """What a weight update cost."""

    version: int
    reports: Sequence[SyncReport]
    nbytes: int
    seconds: float


class Publisher:
    """Carries weights from the learner to the engines. ``canary_ids`` int32[P]: the prompt that both compute; None asks for no proof.

    Over NCCL a group of processes carries them that cannot be joined later: when an engine is lost, the group is given up and
    the object store takes over for the rest of the run.
    """

    def __init__(self, config: Config, roles: Roles, mode: str, canary_ids: IntArray | None) -> None:
        self._config, self._roles, self._mode, self._canary_ids = config, roles, mode, canary_ids
        self._restated: WeightUpdate | None = None
        """The last update that was announced over a group that is given up, once more through the store."""
        self._check = WeightCheck(config.sync.canary_tolerance)
        self._update: WeightUpdate | None = None
        roles.policies.on_back = self._bring_up_to_date

    def connect(self) -> None:
        """Once, when the engines' loops run: those who will move weights from GPU to GPU meet."""
        if self._roles.transport == "store":
            return
        limit, engines = self._config.deadlines.sync_s, self._roles.policies.handles
        workers, buffer_bytes = self._config.rollout.tensor_parallel, self._config.sync.bucket_mib * 2**20
        address, size = self._roles.runtime.address(self._roles.learner.handles[0]), 1 + workers * len(engines)
        met = [e.submit("join_transfer", address, 1 + i * workers, size, buffer_bytes) for i, e in enumerate(engines)]
        self._roles.learner.call("open_transfer", address, size, timeout_s=limit)
        gather(met, limit)

    def export(self, version: int) -> Joint:
        """Asks the learner for its weights as ``version``, once it has done what it was asked before."""
        return self._roles.learner.submit("export_weights", version, self._canary_ids)

    def publish(self, weights: Joint) -> Published:
        """Raises `WeightSyncError` when an engine does not hold what the learner sent, or cannot prove it, and `RanksLost` when the
        learner died before all engines had them.
        """
        limits, started = self._config.deadlines, time.monotonic()
        update: WeightUpdate = weights.result(limits.learn_s)
        if update.transport == "nccl" and self._restated is not None:
            update = self._restated
        if self._mode == "colocated" and self._update is not None:
            self._roles.policies.call("wake", timeout_s=limits.sync_s)
        self._update = update
        reports: list[SyncReport] = []
        for pending in self._roles.policies.submit("update_weights", update):
            try:
                reports.append(pending.result(limits.sync_s))
            except PayloadLost as lost:  # the learner died after it had announced them
                raise RanksLost(f"weights {update.manifest.version} died with the learner: {lost.message}", lost.hint) from None
            except RoleFailed:
                self._roles.policies.settle(limits.call_s)  # its replacement gets these weights before it generates anything
        self._check.accept(update, reports)
        version = update.manifest.version
        self._roles.buffer.set_version(version)
        return Published(version, reports, update.manifest.nbytes, time.monotonic() - started)

    def _bring_up_to_date(self, engine: Handle) -> None:
        """A replaced engine starts with the newest weights."""
        if self._update is None:
            return
        if self._update.transport == "nccl":
            limit = self._config.deadlines.learn_s  # the learner finishes the step it is in
            self._update = self._restated = self._roles.learner.call("leave_transfer", timeout_s=limit)
        report = engine.submit("update_weights", self._update).result(self._config.deadlines.sync_s)
        self._check.accept(self._update, [report])
