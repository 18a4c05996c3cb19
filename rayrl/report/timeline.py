"""Roles on one time axis: what each did when, and for whom it waited.

Times are seconds since the first span. A *bar* is one stretch of one activity of one role.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

WORK = {
    "generate": "generate",
    "rollout": "evaluate",
    "score": "score",
    "step": "learn",
    "logprobs": "reference",
    "export_weights": "weights",
    "update_weights": "weights",
    "publish": "weights",
    "save": "save",
    "save_pretrained": "save",
    "commit": "save",
    "collect": "wait for batch",
    "collect_beside": "wait for batch",
    "finish": "wait for learner",
    "evaluate": "evaluate",
}
"""What a span is, for a person. Others keep their name when they are long enough to be seen."""
WAITS = ("wait for batch", "wait for learner")
MAX_BARS = 6000
_SHORTEST_S = 2e-3
_BINS = 20_000
_DRIVER = "driver"


class Bar(NamedTuple):
    role: str
    activity: str
    start_s: float
    end_s: float


@dataclass
class Timeline:
    bars: list[Bar] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    origin: float = 0.0
    """Seconds since the epoch of time 0."""
    busy: dict[str, float] = field(default_factory=dict)
    """Share of the time between first and last bar that a role worked."""
    waits: dict[str, dict[str, float]] = field(default_factory=dict)
    """By role: share of its idle time during which another role was the only kind at work."""
    merged: bool = False
    """Short neighbours were joined, because the run has more spans than a page can draw."""


def timeline(events: Sequence[Mapping[str, Any]]) -> Timeline:
    """From trace events (`telemetry.perfetto`)."""
    names: dict[int, str] = {}
    bars: list[Bar] = []
    for event in events:
        if event.get("ph") == "M" and event.get("name") == "process_name":
            names[event.get("pid", 0)] = str(event.get("args", {}).get("name", "?"))
        elif event.get("ph") == "X":
            start, length = event.get("ts", 0) / 1e6, event.get("dur", 0) / 1e6
            if event.get("name") in WORK or length > 0.05:
                bars.append(Bar(names.get(event.get("pid", 0), "?"), WORK.get(event["name"], str(event["name"])), start, start + length))
    bars = [bar for bar in bars if bar.end_s - bar.start_s >= _SHORTEST_S]
    if not bars:
        return Timeline()
    origin = min(bar.start_s for bar in bars)
    bars = sorted((bar._replace(start_s=bar.start_s - origin, end_s=bar.end_s - origin) for bar in bars), key=lambda b: b[2])
    roles = sorted({bar.role for bar in bars}, key=_rank)
    busy, waits = _occupation(bars, roles)
    drawn, merged = bars, False
    gap = (bars[-1].end_s) / MAX_BARS
    while len(drawn) > MAX_BARS:
        drawn, merged, gap = _joined(drawn, gap), True, gap * 2
    return Timeline(drawn, roles, origin, busy, waits, merged)


def _rank(role: str) -> tuple[int, str]:
    order = ("driver", "rollout", "scorer", "judge", "annotator", "reward", "reference", "learner")
    kind = role.rsplit("-", 1)[0]
    return (order.index(kind) if kind in order else len(order), role)


def _occupation(bars: Sequence[Bar], roles: Sequence[str]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """On a grid: who works when. A role's idle time is laid at the door of the kinds of roles that work meanwhile."""
    end = max(bar.end_s for bar in bars)
    grid = {role: np.zeros(_BINS, bool) for role in roles}
    for bar in bars:
        if bar.activity not in WAITS:
            grid[bar.role][int(bar.start_s / end * (_BINS - 1)) : int(bar.end_s / end * (_BINS - 1)) + 1] = True
    workers = {role: times for role, times in grid.items() if role != _DRIVER}
    waits: dict[str, dict[str, float]] = {}
    for role, times in workers.items():
        idle, kinds = ~times, defaultdict(lambda: np.zeros(_BINS, bool))
        for other, theirs in workers.items():
            if _kind(other) != _kind(role):
                kinds[_kind(other)] |= theirs
        if idle.any() and kinds:
            claimed = np.sum(list(kinds.values()), axis=0)
            waits[role] = {kind: float((idle & theirs & (claimed == 1)).sum() / idle.sum()) for kind, theirs in kinds.items()}
            waits[role]["nothing that is recorded"] = float((idle & (claimed == 0)).sum() / idle.sum())
    return {role: float(times.mean()) for role, times in grid.items()}, waits


def _kind(role: str) -> str:
    return role.rsplit("-", 1)[0]


def _joined(bars: Sequence[Bar], gap: float) -> list[Bar]:
    """Neighbours of one role and activity that are closer than ``gap`` become one bar."""
    last: dict[tuple[str, str], Bar] = {}
    joined: list[Bar] = []
    for bar in bars:
        key = (bar.role, bar.activity)
        before = last.get(key)
        if before is not None and bar.start_s - before.end_s < gap:
            last[key] = before._replace(end_s=max(before.end_s, bar.end_s))
            continue
        if before is not None:
            joined.append(before)
        last[key] = bar
    return sorted([*joined, *last.values()], key=lambda b: b[2])
