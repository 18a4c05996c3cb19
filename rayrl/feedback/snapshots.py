"""Labels by item key as sorted arrays that readers may keep: a snapshot never changes after it was given away."""

from __future__ import annotations

import numpy as np

from rayrl.annotations import LabelSnapshot


class Labels:
    """Grows by single labels; makes at most one new pair of arrays per version that somebody asks for. Not thread-safe."""

    def __init__(self) -> None:
        self._current = LabelSnapshot(0, np.empty(0, np.uint64), np.empty(0, np.float32))
        self._fresh: dict[int, float] = {}
        self.version = 0

    def add(self, version: int, key: int, label: float) -> None:
        """``version``: id of the annotation; must grow."""
        self._fresh[key] = label
        self.version = version

    def snapshot(self) -> LabelSnapshot:
        if self._fresh:
            keys = np.fromiter(self._fresh, np.uint64, len(self._fresh))
            labels = np.fromiter(self._fresh.values(), np.float32, len(self._fresh))
            order = np.argsort(keys)
            keys, labels = keys[order], labels[order]
            places = np.searchsorted(self._current.keys, keys)
            merged = np.insert(self._current.keys, places, keys), np.insert(self._current.labels, places, labels)
            for array in merged:
                array.flags.writeable = False
            self._current = LabelSnapshot(self.version, *merged)
            self._fresh = {}
        return self._current
