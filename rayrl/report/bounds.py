"""What limits the speed of a run, in one sentence per phase of a step, each with something to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rayrl.report.folder import RunData
from rayrl.report.index import Index

_WARM = 2
"""First steps that are left out where there are enough others: engines and kernels warm up in them."""


class Phase(NamedTuple):
    name: str
    share: float
    """Of the time of a step during which the driver waited for this phase."""
    seconds: float
    """Median per step."""
    text: str


def phases(run: RunData, index: Index | None) -> list[Phase]:
    """Longest first; empty without a finished step."""
    rows = run.steps
    rows = rows[_WARM:] if len(rows) > 2 * _WARM else rows
    if not rows:
        return []
    total = _sum(rows, "step/total_s")
    found = []
    for name, key, explain in (
        ("generation and scoring", "step/generate_wait_s", _generation),
        ("learning", "step/learn_s", _learning),
        ("weight update", "step/sync_s", _sync),
    ):
        share = _sum(rows, key) / total if total else 0.0
        found.append(Phase(name, share, _median(rows, key), explain(run, rows, index, share)))
    rest = max(0.0, 1.0 - sum(p.share for p in found))
    found.append(Phase("everything else", rest, rest * _median(rows, "step/total_s"), _rest(run, rows, rest)))
    return sorted(found, key=lambda p: -p.share)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _generation(run: RunData, rows: Sequence[dict], index: Index | None, share: float) -> str:
    text = f"Rollouts bound {percent(share)} of the time"
    middle, tail = _lengths(index)
    if tail:
        text += f": half of the samples end within {middle:.0f} tokens, the longest hundredth takes {tail:.0f} or more"
    scoring = _sum(rows, "rewards/busy_s") / max(1e-9, _sum(rows, "rewards/busy_s") + _sum(rows, "rewards/wait_s"))
    if share < 0.1:
        return text + ". Nothing to gain here."
    if scoring > 0.5:
        workers = 2 * int(run.setting("rewards.workers", 1))
        return text + f". The scorers are busy {percent(scoring)} of their time: try rewards.workers={workers}."
    if run.setting("buffer.max_staleness", 0) == 0:
        return text + ", while the learner waits. Try buffer.max_staleness=1: the next batch is then written while the learner works."
    if tail and tail > 2 * middle:
        remedy = "a larger rollout.max_running, a smaller rollout.sampling.max_tokens, or more staleness"
        return text + f". The tail keeps engines half empty: try {remedy}."
    engines = int(run.setting("rollout.num_engines", 1))
    return text + f". The learner is faster than the engines: try rollout.num_engines={engines + 1}, where there are cores or GPUs for it."


def _learning(run: RunData, rows: Sequence[dict], index: Index | None, share: float) -> str:
    padding, speed = _median(rows, "learner/padding_share"), _median(rows, "learner/tokens_per_s")
    frames = _median(rows, "learner/frames_per_s")  # of an environment agent
    text = f"The learner bounds {percent(share)} of the time at " + (f"{frames:,.0f} frames/s" if frames else f"{speed:,.0f} tokens/s")
    if share < 0.1:
        return text + ". Nothing to gain here."
    if padding > 0.15:
        return text + f", {percent(padding)} of them padding. Try learner.packing=true."
    if int(run.setting("learner.epochs", 1)) > 1:
        return text + f" and {run.setting('learner.epochs')} epochs a step. Fewer epochs, or more learner.ranks, would shorten it."
    return text + ". Try a larger learner.token_budget, bfloat16, or more learner.ranks."


def _sync(run: RunData, rows: Sequence[dict], index: Index | None, share: float) -> str:
    size, paused = _median(rows, "sync/bytes"), _median(rows, "sync/paused_s")
    text = f"Weight updates take {percent(share)}: {size / 1e6:,.1f} MB each, generation paused for {1e3 * paused:.0f} ms"
    return text + (". Try updating less often: more prompts in a step (batch.groups_per_step)." if share > 0.2 else ".")


def _rest(run: RunData, rows: Sequence[dict], share: float) -> str:
    cpu = _sum(rows, "step/driver_cpu_s") / max(1e-9, _sum(rows, "step/total_s"))
    text = f"{percent(share)} of a step is neither of these"
    if share < 0.1:
        return text + f"; the driver itself computes during {percent(cpu)} of the time."
    return text + f": statistics, writing, evaluation and commits; the driver itself computes during {percent(cpu)} of the time."


def _lengths(index: Index | None) -> tuple[float, float]:
    if index is None or not len(index) or not index.trained.any():
        return 0.0, 0.0
    middle, tail = np.percentile(index.numbers["length"][index.trained], [50, 99])
    return float(middle), float(tail)


def _values(rows: Sequence[dict], key: str) -> list[float]:
    found: list[Any] = [row.get(key) for row in rows]
    return [float(x) for x in found if isinstance(x, int | float)]


def _sum(rows: Sequence[dict], key: str) -> float:
    return sum(_values(rows, key))


def _median(rows: Sequence[dict], key: str) -> float:
    values = _values(rows, key)
    return float(np.median(values)) if values else 0.0
