"""What an agent sees of NetHack in 652 bytes: the map round the hero, the status line, the message.

`nle` writes into the buffers of a `View`; `look` cuts the agent's arrays out of them. The map is never copied whole.
"""

from __future__ import annotations

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


def _crops() -> NDArray[np.intp]:
    """intp[ROWS*COLUMNS, CROP, CROP]: for every position of the hero the positions seen, ROWS*COLUMNS meaning outside the map."""
    rows = np.arange(ROWS)[:, None] + np.arange(CROP) - CROP // 2
    columns = np.arange(COLUMNS)[:, None] + np.arange(CROP) - CROP // 2
    row, column = rows[:, None, :, None], columns[None, :, None, :]
    inside = (row >= 0) & (row < ROWS) & (column >= 0) & (column < COLUMNS)
    return np.where(inside, row * COLUMNS + column, ROWS * COLUMNS).reshape(-1, CROP, CROP)


_CROPS = _crops()


class View:
    """Buffers that the game fills, and the observation cut out of them. Everything is overwritten by the next step."""

    def __init__(self, *, glyphs: bool = False, terminal: bool = False) -> None:
        """``glyphs`` and ``terminal`` add the whole map of glyphs and the 24 x 80 terminal, for tasks and recordings that need them."""
        cells = ROWS * COLUMNS
        self._chars, self._colors = np.full(cells + 1, OUTSIDE, np.uint8), np.full(cells + 1, OUTSIDE, np.uint8)
        self.buffers: dict[str, NDArray[Any]] = {
            "chars": self._chars[:cells].reshape(ROWS, COLUMNS),
            "colors": self._colors[:cells].reshape(ROWS, COLUMNS),
            "blstats": np.zeros(STATS, np.int64),
            "message": np.zeros(MESSAGE, np.uint8),
            "internal": np.zeros(9, np.int32),
        }
        if glyphs:
            self.buffers["glyphs"] = np.zeros((ROWS, COLUMNS), np.int16)
        if terminal:
            self.buffers["tty_chars"] = np.zeros((24, 80), np.uint8)
            self.buffers["tty_colors"] = np.zeros((24, 80), np.int8)
            self.buffers["tty_cursor"] = np.zeros(2, np.uint8)
        self.stats = self.buffers["blstats"].data
        """The status line, read without making numpy scalars."""
        self.pending = self.buffers["internal"].data
        """What the game waits for: 1 a yes/no or one key, 2 a line of text, 3 a space after --More-- or a menu."""
        self._map, self._message, self._blstats = self._chars[:cells], self.buffers["message"], self.buffers["blstats"]
        self.bind({name: np.zeros(spec.shape, spec.dtype) for name, spec in OBSERVATIONS.items()})

    def bind(self, observation: dict[str, NDArray[Any]]) -> None:
        """Makes `look` write into these arrays: rows of a batch, so that nobody has to copy them there."""
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
        if kept:
            self._out_message[...] = np.frombuffer(kept.ljust(MESSAGE, b"\0"), np.uint8)
        else:
            self._out_message[...] = self._message

    def tiles_seen(self) -> int:
        """Squares of the present map that show anything but solid rock."""
        return ROWS * COLUMNS - self._map.tobytes().count(b" ")  # a third of the time that numpy takes for so small an array
