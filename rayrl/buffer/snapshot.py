"""The buffer's part of a commit: which ordinals are where, as JSON. The groups that it holds are in a file beside it (`held`).

Each ordinal is trained exactly once across save and restore, provided that the snapshot is taken between two learner steps
together with the learner's state: what is not yet confirmed comes back, as a held group where its payload was saved, else as a
queued task. In what was generated and scored nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rayrl.buffer.core import BufferCore
from rayrl.buffer.held import Held
from rayrl.buffer.ranges import RangeSet
from rayrl.errors import CheckpointError
from rayrl.types import PromptTask

FORMAT = 2
_LIVE = ("queued", "in_flight", "buffered", "leased", "parked")


def take(core: BufferCore) -> dict[str, Any]:
    """Ordinals are ``[start, end)`` ranges, by state."""
    return {
        "format": FORMAT,
        "version": core.version,
        "trained": core.ledger.trained.ranges(),
        "dropped": core.ledger.dropped.ranges(),
        "live": {state: _ranges(ordinals) for state, ordinals in core.ledger.by_state().items()},
        "dropped_by": dict(core.ledger.dropped_by),
        "staleness": {str(s): n for s, n in core.staleness.items()},
        "failed_scores": dict(core.failed_scores),
        "counts": {"reissued": core.ledger.reissued, "refused": core.refused, "times_full": core.times_full},
    }


def pending_ordinals(snapshot: Mapping[str, Any]) -> list[int]:
    """Whose tasks `restore` needs, ascending: everything that was not finished."""
    return sorted(ordinal for state in _LIVE for ordinal in RangeSet(snapshot["live"][state]))


def next_ordinal(snapshot: Mapping[str, Any]) -> int:
    """Where the prompt source continues: one past every ordinal that was ever admitted."""
    ranges = [snapshot["trained"], snapshot["dropped"], *snapshot["live"].values()]
    return max((end for found in ranges for _, end in found), default=0)


def trained_since(core: BufferCore, snapshot: Mapping[str, Any]) -> list[int]:
    """Ordinals that were trained after ``snapshot`` was taken, ascending."""
    before = RangeSet(snapshot["trained"])
    return [ordinal for ordinal in core.ledger.trained if ordinal not in before]


def restore(core: BufferCore, snapshot: Mapping[str, Any], tasks: Iterable[PromptTask], held: Iterable[Held] = ()) -> None:
    """Into an empty buffer: finished ordinals stay finished, the ``held`` groups are held again, all other ``tasks`` are queued.

    ``tasks``: of exactly the pending ordinals. Raises `CheckpointError` for another format or other tasks, `ValueError` when the
    buffer is not empty.
    """
    if snapshot.get("format") != FORMAT:
        raise CheckpointError(
            f"the buffer snapshot has format {snapshot.get('format')!r}, this rayrl reads {FORMAT}", "resume with the rayrl that wrote it"
        )
    tasks = list(tasks)
    given, pending = {t.prompt.ordinal for t in tasks}, set(pending_ordinals(snapshot))
    if given != pending:
        raise CheckpointError(
            f"the prompts given for resuming are not the {len(pending)} unfinished ones: missing {sorted(pending - given)[:5]}, "
            f"unexpected {sorted(given - pending)[:5]}",
            "resume with the data source and seed of the run",
        )
    core.ledger.restore(snapshot["trained"], snapshot["dropped"], snapshot["dropped_by"])
    core.set_version(int(snapshot["version"]))
    core.staleness = Counter({int(s): n for s, n in snapshot["staleness"].items()})
    core.failed_scores = Counter(snapshot["failed_scores"])
    counts = snapshot["counts"]
    core.ledger.reissued, core.refused, core.times_full = counts["reissued"], counts["refused"], counts["times_full"]
    parked = RangeSet(snapshot["live"]["parked"])
    core.admit([t for t in tasks if t.prompt.ordinal not in parked])
    core.ledger.park([t for t in tasks if t.prompt.ordinal in parked])
    for group in held:
        core.take_back(group)


def _ranges(ordinals: Iterable[int]) -> list[list[int]]:
    found = RangeSet()
    for ordinal in ordinals:
        found.add(ordinal)
    return found.ranges()
