"""Messages as 64-bit hashes: each distinct text is hashed where it appears and sent on once; counting needs the hash alone."""

from __future__ import annotations

import re

import numpy as np
import xxhash
from numpy.typing import NDArray

from rayrl.types import IntArray

NO_MESSAGE = 0
"""The hash of an empty message."""
_NUMBER = re.compile(rb"[0-9]+")


def message_hash(message: bytes) -> int:
    """xxh3-64 of the message's bytes; 0 for the empty message and for it alone."""
    return (xxhash.xxh3_64_intdigest(message) or 1) if message else NO_MESSAGE


def masked(message: bytes) -> bytes:
    """The message with ``#`` for each number: "$ - 17 gold pieces." and "$ - 5 gold pieces." become one."""
    return _NUMBER.sub(b"#", message)


class NewTexts:
    """Remembers which messages were seen, and collects those that were not until someone takes them.

    The memory holds ``limit`` to twice ``limit`` messages: the older half is forgotten at a time, so that a run of any length stays
    bounded. A forgotten message that appears again is collected again.
    """

    def __init__(self, limit: int = 500_000) -> None:
        self._limit = limit
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}
        self._texts: dict[int, bytes] = {}

    def see(self, key: int, message: bytes) -> None:
        if key in self._young:
            return
        if key not in self._old and key != NO_MESSAGE:
            self._texts[key] = message
        self._young[key] = message
        if len(self._young) > self._limit:
            self._young, self._old = {}, self._young

    def take(self) -> dict[int, bytes]:
        """Texts collected since the last call, by hash."""
        taken, self._texts = self._texts, {}
        return taken

    def repeat(self) -> None:
        """Everything remembered counts as not taken: who took it has lost it."""
        self._texts = {key: text for key, text in (self._old | self._young).items() if key != NO_MESSAGE}


def tally(hashes: NDArray[np.uint64], counts: IntArray) -> tuple[NDArray[np.uint64], IntArray, IntArray]:
    """Distinct hashes, how often each was seen, and how often it was the first sighting of its episode (count 1).

    ``hashes`` and ``counts`` have the same shape, e.g. [T, K]; the empty message is left out. Returns uint64[M], int32[M], int32[M].
    """
    told = hashes != NO_MESSAGE
    distinct, inverse, seen = np.unique(hashes[told], return_inverse=True, return_counts=True)
    firsts = np.bincount(inverse, weights=counts[told] == 1, minlength=len(distinct))
    return distinct, seen.astype(np.int32), firsts.astype(np.int32)
