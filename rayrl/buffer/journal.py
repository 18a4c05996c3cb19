"""The buffer's journal: one JSON line per change that must not be forgotten, so that a buffer that died goes on where it was.

Payloads die with the buffer's process; what is kept is which ordinals were admitted, trained and dropped. A checkpoint is another
thing: it belongs to the learner's weights and is taken by the driver (`snapshot.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayrl.buffer.ranges import RangeSet
from rayrl.buffer.snapshot import FORMAT


class Journal:
    """Appends lines; each is whole on the way to the disk before the change is answered for, which outlives the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def begin(self, snapshot: Mapping[str, Any]) -> None:
        """From here on only this counts."""
        self._write({"begin": dict(snapshot)})

    def admitted(self, ordinals: Iterable[int]) -> None:
        self._write({"admitted": _ranges(ordinals)})

    def trained(self, ordinals: Iterable[int], staleness: Mapping[int, int]) -> None:
        self._write({"trained": _ranges(ordinals), "staleness": {str(s): n for s, n in staleness.items()}})

    def dropped(self, ordinal: int, reason: str) -> None:
        self._write({"dropped": ordinal, "reason": reason})

    def reopened(self, ordinals: Iterable[int]) -> None:
        """Trained into weights that are lost: to be trained again."""
        self._write({"reopened": _ranges(ordinals)})

    def unparked(self, count: int) -> None:
        """The lowest of those are queued."""
        self._write({"unparked": count})

    def version(self, version: int) -> None:
        self._write({"version": version})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")


def replay(path: Path) -> dict[str, Any]:
    """The snapshot (`snapshot.take`) that the lines add up to; the pending ones are to be generated again. A torn last line is ignored."""
    state = _State({})
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            state.take(json.loads(line))
        except json.JSONDecodeError:
            break
    return state.snapshot()


class _State:
    def __init__(self, base: Mapping[str, Any]) -> None:
        live = base.get("live", {})
        self.trained, self.dropped = RangeSet(base.get("trained", ())), RangeSet(base.get("dropped", ()))
        self.pending, self.parked = RangeSet(), RangeSet(live.get("parked", ()))
        for state in live:
            for ordinal in _each(live[state]) if state != "parked" else ():
                self.pending.add(ordinal)
        counts = {"reissued": 0, "refused": 0, "times_full": 0}
        self.rest = {k: base.get(k, v) for k, v in (("version", 0), ("staleness", {}), ("failed_scores", {}), ("counts", counts))}
        self.reasons = Counter(base.get("dropped_by", {}))

    def take(self, line: Mapping[str, Any]) -> None:
        if "begin" in line:
            self.__init__(line["begin"])  # type: ignore[misc]
        for ordinal in _each(line.get("admitted", ())):
            self.pending.add(ordinal)
        for ordinal in _each(line.get("trained", ())):
            self.pending.remove(ordinal)
            self.trained.add(ordinal)
        for ordinal in _each(line.get("reopened", ())):
            self.trained.remove(ordinal)
            self.parked.add(ordinal)
        for ordinal in sorted(self.parked)[: line.get("unparked", 0)]:
            self.parked.remove(ordinal)
            self.pending.add(ordinal)
        if "dropped" in line:
            self.pending.remove(line["dropped"])
            self.dropped.add(line["dropped"])
            self.reasons[line["reason"]] += 1
        self.rest |= {key: line[key] for key in ("version", "staleness") if key in line}

    def snapshot(self) -> dict[str, Any]:
        live = {"queued": self.pending.ranges(), "in_flight": [], "buffered": [], "leased": [], "parked": self.parked.ranges()}
        sets = {"trained": self.trained.ranges(), "dropped": self.dropped.ranges(), "live": live}
        return {"format": FORMAT, "dropped_by": dict(self.reasons)} | sets | self.rest


def _ranges(ordinals: Iterable[int]) -> list[Sequence[int]]:
    found = RangeSet()
    for ordinal in ordinals:
        found.add(ordinal)
    return [list(r) for r in found.ranges()]


def _each(ranges: Iterable[Sequence[int]]) -> Iterable[int]:
    return (ordinal for start, end in ranges for ordinal in range(start, end))
