"""Texts that an environment showed, where questions are pairs of them: who was seen how often, and which two to compare."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

_CANDIDATES = 8
"""Random pairs looked at for each that is chosen."""
_SHOWN = 4096
"""Latest sightings that ``shown`` draws from."""


@dataclass(slots=True)
class Sighted:
    text: str
    sightings: int = 0
    first_sightings: int = 0
    seen: int = 0
    uncertainty: float = 0.0


class SightedTexts:
    """At most ``limit`` texts by item key; the one not seen for longest is forgotten. Not thread-safe.

    ``select``: who is drawn. "random" draws each text alike, and "uncertainty" takes the most doubtful of such pairs. "shown" draws in
    proportion to the episodes that showed a text lately (ONI draws observations): where most texts are met once and say nothing, like
    small talk, almost every pair of the others is a tie, and a judge's time is spent on those.
    """

    def __init__(self, limit: int, select: str, seed: int = 0) -> None:
        self._limit, self._select, self._random = limit, select, random.Random(seed)
        self._texts: OrderedDict[int, Sighted] = OrderedDict()
        self._places: dict[int, int] = {}
        self._keys: list[int] = []
        """Keys in a list, so that a random one is found at once; `_places` has the index of each."""
        self._shown: list[int] = []
        self._oldest = 0
        """A ring of keys, one for each of the latest episodes that showed a text, and where it is overwritten next."""

    def __contains__(self, key: int) -> bool:
        return key in self._texts

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, key: int) -> Sighted:
        return self._texts[key]

    def row(self, key: int) -> tuple[int, str, int, int, int]:
        """As it is written to disk."""
        s = self._texts[key]
        return key, s.text, s.sightings, s.first_sightings, s.seen

    def add(self, key: int, sighted: Sighted) -> int:
        """Returns how many texts were forgotten for it."""
        self._texts[key] = sighted
        self._places[key] = len(self._keys)
        self._keys.append(key)
        forgotten = 0
        while len(self._texts) > self._limit:
            self._remove(next(iter(self._texts)))
            forgotten += 1
        return forgotten

    def touch(self, key: int, tick: int, sightings: int, first_sightings: int) -> None:
        sighted = self._texts[key]
        sighted.seen, sighted.sightings = tick, sighted.sightings + sightings
        sighted.first_sightings += first_sightings
        self._texts.move_to_end(key)
        if self._select == "shown":
            for _ in range(min(max(1, first_sightings), _SHOWN)):
                self._show(key)

    def recent(self, count: int) -> dict[int, str]:
        """The ``count`` texts that were seen last."""
        return {key: self._texts[key].text for key in islice(reversed(self._texts), count)}

    def choose(self, is_known: Callable[[int, int], bool]) -> tuple[int, int] | None:
        """Two keys worth comparing, the smaller one first, of which ``is_known`` is false; None when no such pair was found."""
        if len(self._keys) < 2:
            return None
        for keys in (self._shown, self._keys):  # once those shown lately are compared, any others
            new = (pair for pair in (self._draw(keys) for _ in range(_CANDIDATES)) if pair and not is_known(*pair))
            found = max(new, key=self._doubt, default=None) if self._select == "uncertainty" else next(new, None)
            if found:
                return found
        return None

    def _doubt(self, pair: tuple[int, int]) -> float:
        return self._texts[pair[0]].uncertainty + self._texts[pair[1]].uncertainty

    def _draw(self, keys: list[int]) -> tuple[int, int] | None:
        """Two of ``keys``; None when they are the same text, or one was forgotten."""
        if len(keys) < 2:
            return None
        a, b = self._random.sample(range(len(keys)), 2)
        first, second = sorted((keys[a], keys[b]))
        return (first, second) if first != second and first in self._texts and second in self._texts else None

    def _show(self, key: int) -> None:
        if len(self._shown) < _SHOWN:
            self._shown.append(key)
        else:
            self._shown[self._oldest] = key
            self._oldest = (self._oldest + 1) % _SHOWN

    def _remove(self, key: int) -> None:
        del self._texts[key]
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._places[last] = place
