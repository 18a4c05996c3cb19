"""What an agent sees of NetHack in 652 bytes: the map round the hero, the status line, the message.

`nle` writes into the buffers of a `View`; `look` cuts the agent's arrays out of them. The map is never copied whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayrl.agent_types import ArrayKind, ArraySpec

ROWS, COLUMNS = 21, 79
CROP = 12
STATS = 27
MESSAGE = 256
OUTSIDE = 0
"""Character and colour beyond the edge of the map."""

X, Y, SCORE, DEPTH, GOLD, LEVEL, TIME, DUNGEON, DUNGEON_LEVEL, CONDITION = 0, 1, 9, 12, 13, 18, 20, 23, 24, 25
"""Positions in the status line (``blstats``) that the tasks use. DUNGEON_LEVEL counts within its branch of the dungeon."""
HALLUCINATING = 512
"""Bit of the condition."""

# One factor per number of the status line. Score, depth, level within the branch, condition and alignment are hidden, as in ONI.
_SCALES = (
    *(1 / COLUMNS, 1 / ROWS),  # position
    *(0.1, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1),  # strength (two forms), dexterity, constitution, intelligence, wisdom, charisma
    *(0.0, 0.1, 0.1, 0.0, 0.01),  # score, hit points, their maximum, depth, gold
    *(0.1, 0.1, 0.1, 0.1, 0.3),  # energy, its maximum, armour class, monster level, experience level
    *(0.01, 0.001, 1.0, 1.0),  # experience points, time, hunger, load
    *(1.0, 0.0, 0.0, 0.0),  # dungeon number, level in it, condition, alignment
)

OBSERVATIONS = {
    "chars": ArraySpec((CROP, CROP), "uint8", ArrayKind.CATEGORIES, 256),
    "colors": ArraySpec((CROP, CROP), "uint8", ArrayKind.CATEGORIES, 16),
    "stats": ArraySpec((STATS,), "int32", ArrayKind.NUMBERS, scale=_SCALES),
    "message": ArraySpec((MESSAGE,), "uint8", ArrayKind.TEXT, 256),
}
"""The hero stands at row 6, column 6 of ``chars`` and ``colors``; ``stats`` are nle's blstats."""


def _crops() -> NDArray[np.int16]:
    """int16[ROWS*COLUMNS, CROP, CROP]: for every position of the hero the positions seen, ROWS*COLUMNS meaning outside the map."""
    rows = np.arange(ROWS)[:, None] + np.arange(CROP) - CROP // 2
    columns = np.arange(COLUMNS)[:, None] + np.arange(CROP) - CROP // 2
    row, column = rows[:, None, :, None], columns[None, :, None, :]
    inside = (row >= 0) & (row < ROWS) & (column >= 0) & (column < COLUMNS)
    return np.where(inside, row * COLUMNS + column, ROWS * COLUMNS).reshape(-1, CROP, CROP).astype(np.int16)


_CROPS = _crops()


class View:
    """Buffers that the game fills, and the observation cut out of them. Everything is overwritten by the next step."""

    def __init__(self, *, glyphs: bool = False, terminal: bool = False) -> None:
        """``glyphs`` and ``terminal`` add the whole map of glyphs and the 24 x 80 terminal, for tasks and recordings that need them."""
        self.buffers: dict[str, NDArray[Any]] = {"internal": np.zeros(9, np.int32)}
        if glyphs:
            self.buffers["glyphs"] = np.zeros((ROWS, COLUMNS), np.int16)
        if terminal:
            self.buffers["tty_chars"] = np.zeros((24, 80), np.uint8)
            self.buffers["tty_colors"] = np.zeros((24, 80), np.int8)
            self.buffers["tty_cursor"] = np.zeros(2, np.uint8)
        self.pending = self.buffers["internal"].data
        """What the game waits for: 1 a yes/no or one key, 2 a line of text, 3 a space after --More-- or a menu."""
        self.fill(*(array[0] for array in _storage(1)))
        self.bind({name: np.zeros(spec.shape, spec.dtype) for name, spec in OBSERVATIONS.items()})

    def fill(self, chars: NDArray[np.uint8], colors: NDArray[np.uint8], stats: NDArray[np.int64], message: NDArray[np.uint8]) -> None:
        """Takes these for `buffers`: a row each of `_storage`."""
        self._chars, self._colors, self._blstats, self._message = chars, colors, stats, message
        self._map = chars[:-1]
        self.stats = stats.data
        """The status line, read without making numpy scalars."""
        maps = {"chars": self._map.reshape(ROWS, COLUMNS), "colors": colors[:-1].reshape(ROWS, COLUMNS)}
        self.buffers |= maps | {"blstats": stats, "message": message}

    def bind(self, observation: dict[str, NDArray[Any]]) -> None:
        """Makes `look` write into these arrays."""
        self.observation = observation
        self._out_chars, self._out_colors = observation["chars"], observation["colors"]
        self._out_stats, self._out_message = observation["stats"], observation["message"]

    def text(self) -> bytes:
        """The game's present message."""
        return self._message.tobytes().rstrip(b"\0")

    def look(self, kept: bytes = b"") -> None:
        """Refreshes `observation`; ``kept`` replaces the game's message."""
        stats = self.stats
        crop = _CROPS[stats[Y] * COLUMNS + stats[X]]
        self._chars.take(crop, out=self._out_chars, mode="clip")
        self._colors.take(crop, out=self._out_colors, mode="clip")
        self._out_stats[...] = self._blstats
        self._out_message[...] = _padded(kept) if kept else self._message

    def tiles_seen(self) -> int:
        """Squares of the present map that show anything but solid rock."""
        return ROWS * COLUMNS - self._map.tobytes().count(b" ")  # a third of the time that numpy takes for so small an array


class Views:
    """The views of K games, looked at together: after a step of the game numpy's code has left the processor's caches, so that a look at
    one game costs nearly what one at all of them does."""

    def __init__(self, views: Sequence[View], observations: Mapping[str, NDArray[Any]]) -> None:
        """Moves the buffers of ``views``: the games must be told. `look` writes into ``observations``, [K, ...] each."""
        self._chars, self._colors, self._stats, self._messages = storage = _storage(len(views))
        for k, view in enumerate(views):
            view.fill(*(array[k] for array in storage))
        self._out = observations
        self._first = np.arange(len(views), dtype=np.intp)[:, None, None] * (ROWS * COLUMNS + 1)
        self._seen = np.zeros((len(views), CROP, CROP), np.intp)

    def look(self, kept: Sequence[bytes]) -> None:
        """Refreshes the observations; a message of ``kept`` that is not empty replaces the game's."""
        out, stats = self._out, self._stats
        np.add(_CROPS[stats[:, Y] * COLUMNS + stats[:, X]], self._first, out=self._seen)
        self._chars.take(self._seen, out=out["chars"], mode="clip")
        self._colors.take(self._seen, out=out["colors"], mode="clip")
        out["stats"][...] = stats
        out["message"][...] = self._messages
        for k, text in enumerate(kept):
            if text:
                out["message"][k] = _padded(text)


def _storage(games: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """Characters and colours of whole maps, each with a last cell outside of it, status lines and messages."""
    maps = [np.full((games, ROWS * COLUMNS + 1), OUTSIDE, np.uint8) for _ in range(2)]
    return maps[0], maps[1], np.zeros((games, STATS), np.int64), np.zeros((games, MESSAGE), np.uint8)


def _padded(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text.ljust(MESSAGE, b"\0"), np.uint8)
