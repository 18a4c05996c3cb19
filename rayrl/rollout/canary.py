"""The proof after a weight update: the engine's log-probs of a fixed prompt against the learner's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rayrl.types import FloatArray, IntArray, SyncReport, WeightUpdate


def canary_report(update: WeightUpdate, logprobs: Callable[[IntArray], FloatArray], *, paused_s: float, load_s: float) -> SyncReport:
    """The report of an engine that has loaded ``update`` and verified its digests; ``logprobs`` asks the engine as it is now."""
    found = None if update.canary_token_ids is None else logprobs(update.canary_token_ids)
    gap = None
    if found is not None and update.canary_logprobs is not None:
        gap = float(np.abs(found.astype(np.float64) - update.canary_logprobs).mean())
    return SyncReport(update.manifest.version, update.manifest.digest, paused_s, load_s, gap, found)
