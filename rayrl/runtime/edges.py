"""What a call between roles is about, so that whoever is stuck on it can say so: which version, step or ordinals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayrl.deadlines import OPEN, Deadline, name_of
from rayrl.types import GroupInfo, LearnBatch, PromptTask, WeightUpdate

_LOOPS = frozenset({"run", "attend"})
"""Calls that last as long as their role: their end is waited for from the moment that somebody asks for it."""


def deadline_of(role: str, method: str, limit_s: float, about: str, since: float | None = None) -> Deadline:
    """The wait of this process for a call on a role, ``since`` it was called."""
    return Deadline(name_of(method), OPEN.me, f"{role}.{method}", limit_s, about, None if method in _LOOPS else since)


def about(method: str, args: Sequence[Any]) -> str:
    """E.g. ``step 12 at version 11, ordinals 352..383``; empty where nothing tells."""
    for arg in args:
        if isinstance(arg, WeightUpdate):
            return f"version {arg.manifest.version}"
        if isinstance(arg, LearnBatch):
            return f"step {arg.step + 1} at version {arg.version}, {ordinals(list(arg.ordinals))}"
        if isinstance(arg, list | tuple) and arg and isinstance(arg[0], PromptTask):
            return ordinals([task.prompt.ordinal for task in arg])
        if isinstance(arg, list | tuple) and arg and isinstance(arg[0], GroupInfo):
            return ordinals([info.ordinal for info in arg])
        if isinstance(arg, Path):
            return arg.name
        if method == "export_weights" and isinstance(arg, int):
            return f"version {arg}"
    return ""


def ordinals(found: Sequence[int]) -> str:
    """``ordinals 3..5, 9``, the first ones of many."""
    runs: list[list[int]] = []
    for ordinal in sorted(found):
        if runs and ordinal == runs[-1][1] + 1:
            runs[-1][1] = ordinal
        else:
            runs.append([ordinal, ordinal])
    told = [f"{a}..{b}" if a < b else str(a) for a, b in runs[:4]]
    return f"ordinals {', '.join(told)}{' and more' if len(runs) > 4 else ''}"
