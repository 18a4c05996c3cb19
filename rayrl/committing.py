"""Commits beside training: the driver says when, and a thread waits until every role has written its part.

A commit begins when the learner is asked for the state after a step (`reserve`), before it is given another batch; the ledger of
that moment is added when the step counts (`begin`). At most one is under way. It counts when all its files are on disk under its
final name; until then, and whatever fails, the one before is the newest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rayrl import checkpoint
from rayrl.deadlines import Deadline
from rayrl.errors import RayrlError, StorageError
from rayrl.run_folder import RunFolder
from rayrl.runtime.contract import Pending
from rayrl.runtime.pool import Joint, gather

if TYPE_CHECKING:
    from rayrl.assembly import Roles

GROUPS = "groups.arrows"
"""The groups that the buffer held, in a commit."""
LABELS = "labels.sqlite"
"""The label store of that moment, in a commit."""
_POLL_S = 0.1


class Done(NamedTuple):
    """A commit that ended."""

    step: int
    place: Path | None
    """None when it failed."""
    problem: str
    metrics: dict[str, float]


class Committer:
    """Used by the driver's thread alone."""

    def __init__(self, folder: RunFolder, roles: Roles, *, keep: int, save_s: float) -> None:
        self._folder, self._roles, self._keep, self._save_s = folder, roles, keep, save_s
        self._draft: checkpoint.Draft | None = None
        self._asked: Joint | None = None
        self._thread: threading.Thread | None = None
        self._done: Done | None = None
        self._failed = 0

    @property
    def busy(self) -> bool:
        """A commit is being written, or the learner was asked for one."""
        return self._draft is not None

    @property
    def reserved_for(self) -> int | None:
        """The step whose state the learner was asked for, until `begin`."""
        return self._draft.step if self._draft is not None and self._thread is None else None

    def reserve(self, step: int) -> None:
        """Asks the learner for its state as it will be when it has done what it was asked so far: after ``step``."""
        assert not self.busy
        self._draft = checkpoint.Draft(self._folder, step)
        self._asked = self._roles.learner.submit("begin_save", self._draft.path / checkpoint.LEARNER)

    def begin(self, state: Mapping[str, Any]) -> None:
        """``state``: of the driver, at the step that was reserved. Returns at once."""
        draft, asked = self._draft, self._asked
        assert draft is not None and asked is not None
        parts = [self._roles.buffer.submit("write_held", state["buffer"]["capture"], draft.path / GROUPS)]
        parts += self._roles.sources.save(draft.path)
        if self._roles.feedback is not None:
            parts += self._roles.feedback.save(draft.path / LABELS)
        self._thread = threading.Thread(target=self._write, args=(draft, asked, parts, state), name="commit", daemon=True)
        self._thread.start()

    def finished(self) -> Done | None:
        """The commit that ended since the last call."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread.join(0.0)
        self._draft, self._asked, self._thread = None, None, None
        done, self._done = self._done, None
        return done

    def settle(self) -> Done | None:
        """For the one under way; None without any."""
        if self._thread is None:
            self.abandon()
            return None
        self._thread.join(self._save_s)
        if self._thread.is_alive():
            raise Deadline("save_s", "driver", "a commit", self._save_s).error()
        return self.finished()

    def abandon(self) -> None:
        """A commit that was reserved and never begun: its step did not come to an end."""
        if self._thread is None and self._draft is not None:
            self._draft.discard()
            self._draft, self._asked = None, None

    # ---- the thread that waits

    def _write(self, draft: checkpoint.Draft, asked: Joint, parts: Sequence[Pending], state: Mapping[str, Any]) -> None:
        started = time.monotonic()
        try:
            asked.result(self._save_s)
            gather(parts, self._save_s)
            ranks = self._written()
            place = draft.finish(state, keep=self._keep)
        except (RayrlError, OSError) as error:
            self._await_writers(parts)
            draft.discard()
            self._failed += 1
            problem = error.message if isinstance(error, RayrlError) else str(error)
            self._done = Done(draft.step, None, problem, {"checkpoint/failed_count": float(self._failed)})
            return
        metrics = {
            "checkpoint/paused_s": max(rank["paused_s"] for rank in ranks),
            "checkpoint/write_s": time.monotonic() - started,
            "checkpoint/bytes": float(sum(rank["bytes"] for rank in ranks)),
            "checkpoint/failed_count": float(self._failed),
        }
        self._done = Done(draft.step, place, "", metrics)

    def _await_writers(self, parts: Sequence[Pending]) -> None:
        """Until no role writes into the draft any more: a file that arrives while the folder is removed would keep it there."""
        for part in parts:
            with suppress(RayrlError, OSError):
                part.result(self._save_s)
        with suppress(RayrlError, OSError):
            self._written()

    def _written(self) -> list[Mapping[str, Any]]:
        """What each rank says of its save, once all have written theirs."""
        deadline = Deadline("save_s", "driver", "the files of the learner", self._save_s)
        while True:
            ranks = self._roles.learner.observe("saved").results(self._save_s)
            if all(rank["done"] for rank in ranks):
                for rank in ranks:
                    if rank["error"]:
                        raise StorageError(f"the learner could not save: {rank['error']}", "free space, or move run.dir")
                return ranks
            deadline.check()
            time.sleep(_POLL_S)
