"""The buffer's part of a checkpoint: which ordinals are finished, which must be generated again. JSON-able, without payloads.

Each ordinal is trained exactly once across save and restore, provided that the snapshot is taken between two learner steps
together with the learner's state: what is not yet confirmed comes back as a queued task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rayrl.buffer.core import BufferCore
from rayrl.buffer.ranges import RangeSet
from rayrl.errors import CheckpointError
from rayrl.types import PromptTask

FORMAT = 1


def take(core: BufferCore) -> dict[str, Any]:
    """Ordinals are ``[start, end)`` ranges; ``pending`` are queued, in flight, buffered or leased."""
    pending = RangeSet()
    for ordinal in core.ledger.live():
        pending.add(ordinal)
    return {
        "format": FORMAT,
        "version": core.version,
        "trained": core.ledger.trained.ranges(),
        "dropped": core.ledger.dropped.ranges(),
        "pending": pending.ranges(),
        "dropped_by": dict(core.ledger.dropped_by),
        "staleness": {str(s): n for s, n in core.staleness.items()},
        "failed_scores": dict(core.failed_scores),
    }


def pending_ordinals(snapshot: Mapping[str, Any]) -> list[int]:
    """Whose tasks `restore` needs, ascending."""
    return list(RangeSet(snapshot["pending"]))


def next_ordinal(snapshot: Mapping[str, Any]) -> int:
    """Where the prompt source continues: one past every ordinal that was ever admitted."""
    return max((end for key in ("trained", "dropped", "pending") for _, end in snapshot[key]), default=0)


def trained_since(core: BufferCore, snapshot: Mapping[str, Any]) -> list[int]:
    """Ordinals that were trained after ``snapshot`` was taken, ascending."""
    before = RangeSet(snapshot["trained"])
    return [ordinal for ordinal in core.ledger.trained if ordinal not in before]


def restore(core: BufferCore, snapshot: Mapping[str, Any], tasks: Iterable[PromptTask]) -> None:
    """Into an empty buffer: finished ordinals stay finished, ``tasks`` of exactly the pending ones are queued again.

    Raises `CheckpointError` for another format or other tasks, `ValueError` when the buffer is not empty.
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
    core.admit(tasks)
