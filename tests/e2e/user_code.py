"""What a user might bring along: reward functions, also on a bad day, and an environment."""

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


def parity(completion, ground_truth):
    """Has nothing to do with the task, but varies within every group."""
    return float(zlib.crc32(completion.encode()) % 2)


class Parrot:
    """An environment that answers every turn with its number."""

    def __init__(self, prompt):
        self.turns = 0

    def observe(self, action_text, action_ids):
        self.turns += 1
        return f"[{self.turns}]", False
