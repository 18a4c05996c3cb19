"""Which trajectories a page carries: whole groups from every part of the run, within a number of bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rayrl.report.index import Index

MOST_STEPS = 200
MOST_ROWS = 8000
_PROBES = 8

Load = Callable[[list[int]], dict[int, dict[str, Any]]]
"""Details of index rows; each part is read once per call."""


def choose(index: Index, budget: int, load: Load) -> dict[int, dict[str, Any]]:
    """Details by index row, about ``budget`` bytes when compressed and never more.

    From each of at most `MOST_STEPS` evenly spread steps as many groups as fit, in this order: the one whose rewards differ most, one
    that was dropped, the others; among equals prompts that come back in the run. A probe says how large a group is.
    """
    queues = _queues(index)
    if not queues:
        return {}
    probe = load([row for queue in _spread(queues, _PROBES) for row in queue[0]])
    per_group = max(1.0, _packed(probe) / min(_PROBES, len(queues)))
    rows_per_group = len(probe) / min(_PROBES, len(queues))
    groups = int(min(budget / per_group, MOST_ROWS / rows_per_group))
    while True:
        queues = _spread(queues, max(1, groups))
        per_step = max(1, groups // len(queues))
        rows = [row for queue in queues for group in queue[:per_step] for row in group]
        found = load(rows)
        if _packed(found) <= budget or groups <= 1:
            return dict(sorted(found.items()))
        groups = int(groups * 0.7)


def _packed(details: dict[int, dict[str, Any]]) -> int:
    return len(zlib.compress(json.dumps(list(details.values())).encode(), 6))


def _spread(queues: Sequence[list[list[int]]], count: int) -> list[list[list[int]]]:
    """At most ``count`` of them, first and last among them."""
    if len(queues) <= count:
        return list(queues)
    return [queues[i] for i in np.unique(np.linspace(0, len(queues) - 1, count).astype(int))]


def _queues(index: Index) -> list[list[list[int]]]:
    """Per step its groups (lists of rows), the most telling ones first."""
    if not len(index):
        return []
    order = np.lexsort((index.numbers["sample"], index.numbers["ordinal"], index.numbers["step"]))
    step, ordinal = index.numbers["step"][order], index.numbers["ordinal"][order]
    by_step: dict[int, list[list[int]]] = {}
    for rows in np.split(order, np.flatnonzero(np.diff(ordinal) | np.diff(step)) + 1):
        by_step.setdefault(int(index.numbers["step"][rows[0]]), []).append(rows.tolist())
    prompts = index.texts["prompt"].codes
    times = np.bincount(prompts[prompts >= 0], minlength=1)
    queues = []
    for groups in _spread(list(by_step.values()), MOST_STEPS):
        queue = sorted(groups, key=lambda rows: _rank(index, rows, times), reverse=True)
        dropped = next((g for g in queue[1:] if not index.numbers["kept"][g].any()), None)
        if dropped is not None:
            queue.remove(dropped)
            queue.insert(1, dropped)
        queues.append(queue)
    return queues


def _rank(index: Index, rows: list[int], times: np.ndarray) -> tuple[bool, float, int]:
    rewards = index.numbers["reward"][rows]
    known = rewards[~np.isnan(rewards)]
    prompt = int(index.texts["prompt"].codes[rows[0]])
    comes_back = int(times[prompt]) if prompt >= 0 else 0
    return bool(index.numbers["kept"][rows].any()), float(np.ptp(known)) if len(known) else 0.0, comes_back
