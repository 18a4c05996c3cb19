"""Reward functions that a user might write on a bad day. Imported by the verifier pool's child processes."""

from __future__ import annotations

import time
import zlib


def moody(completion, ground_truth):
    """Raises, hangs, returns NaN or works, depending on the completion alone."""
    mood = zlib.crc32(completion.encode()) % 8
    if mood == 0:
        raise RuntimeError("not today")
    if mood == 1:
        time.sleep(60)
    return float("nan") if mood == 2 else float(mood % 2)


def mostly_equal(completion, ground_truth):
    """1 for nearly everything, so that many groups have no variance."""
    return 0.0 if zlib.crc32(completion.encode()) % 8 == 0 else 1.0
