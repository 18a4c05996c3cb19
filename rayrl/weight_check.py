"""No weight is believed: after every update each engine proves the bytes (digest) and the computation (canary log-probs).

The canary is a fixed prompt whose log-probs learner and engine both compute. Two things can go wrong without any error from
below: the engine computes with other weights than were sent, or the update reached no layer at all. Both stop the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayrl.errors import WeightSyncError
from rayrl.types import FloatArray, SyncReport, WeightUpdate

_VISIBLE_NATS = 1e-3
"""A learner whose own canary moved less than this may leave a low-precision engine's log-probs unchanged."""


class WeightCheck:
    """Remembers the last update, because a proof also needs to know what came before."""

    def __init__(self, tolerance_nats: float) -> None:
        self._tolerance = tolerance_nats
        self._learner: FloatArray | None = None
        self._engine: FloatArray | None = None

    def accept(self, update: WeightUpdate, reports: Sequence[SyncReport]) -> None:
        """Raises `WeightSyncError` unless every report proves that its engine holds ``update``."""
        for report in reports:
            self._check_bytes(update, report)
            self._check_canary(report)
        if reports and update.canary_logprobs is not None:
            self._check_movement(update.canary_logprobs, reports[0].canary_logprobs)

    def _check_bytes(self, update: WeightUpdate, report: SyncReport) -> None:
        sent = update.manifest
        if (report.version, report.digest) != (sent.version, sent.digest):
            raise WeightSyncError(
                f"an engine holds version {report.version} ({report.digest}) after version {sent.version} ({sent.digest}) was sent",
                "the transport lost or changed bytes; look at logs/rollout-*.log",
            )

    def _check_canary(self, report: SyncReport) -> None:
        if report.canary_gap is not None and not report.canary_gap <= self._tolerance:
            raise WeightSyncError(
                f"engine and learner disagree on the canary prompt by {report.canary_gap:.4f} nats at version {report.version}, "
                f"sync.canary_tolerance is {self._tolerance:g}",
                "the engine does not compute with the learner's weights; if model.dtype=float32 agrees, raise the tolerance",
            )

    def _check_movement(self, learner: FloatArray, engine: FloatArray | None) -> None:
        before, self._learner = self._learner, learner
        engine_before, self._engine = self._engine, engine
        if before is None or engine_before is None or engine is None:
            return
        if np.abs(learner - before).max() > _VISIBLE_NATS and np.array_equal(engine, engine_before):
            raise WeightSyncError(
                "the learner's canary log-probs moved and the engine's did not",
                "the update reached no layer of the engine: see logs/rollout-*.log",
            )
