"""Commits beside training: whole or not at all, one at a time, and a disk that is full costs nothing but the commit."""

from __future__ import annotations

import errno
import json
import threading
from types import SimpleNamespace

import pytest

from rayrl import checkpoint
from rayrl.committing import GROUPS, Committer
from rayrl.errors import RanksLost, StorageError
from rayrl.run_folder import RunFolder
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.local import LocalRuntime
from rayrl.runtime.pool import Ranks


class Learner:
    """Writes one file when it is let."""

    def __init__(self) -> None:
        self.gate, self.error, self.folder = threading.Event(), "", None

    def begin_save(self, folder):
        self.folder = folder

    def saved(self):
        done = self.gate.wait(0.01)
        if done and not self.error:
            (self.folder / "weights").write_bytes(b"w" * 1000)
        return {"done": done, "error": self.error if done else "", "paused_s": 0.25, "write_s": 1.0, "bytes": 1000}


class Buffer:
    error: Exception | None = None

    def write_held(self, capture, path):
        if self.error:
            raise self.error
        path.write_bytes(b"groups")


@pytest.fixture
def parts(tmp_path):
    runtime, learner, buffer = LocalRuntime(), Learner(), Buffer()
    handles = runtime.start([RoleSpec("learner-0", lambda: learner), RoleSpec("buffer", lambda: buffer)], 5)
    roles = SimpleNamespace(
        learner=Ranks(runtime, lambda: [handles[0]], [handles[0]]),
        buffer=handles[1],
        sources=SimpleNamespace(save=lambda place: []),
        feedback=None,
    )
    folder = RunFolder.create(tmp_path / "run", fresh=True)
    yield SimpleNamespace(folder=folder, learner=learner, buffer=buffer, committer=Committer(folder, roles, keep=2, save_s=10))
    learner.gate.set()
    runtime.shutdown()


def state(step):
    return {"step": step, "buffer": {"capture": step}}


def save(parts, step):
    parts.committer.reserve(step)
    parts.committer.begin(state(step))
    return parts.committer.settle()


def test_the_driver_goes_on_while_a_commit_is_written_and_hears_when_it_is_safe(parts):
    parts.committer.reserve(4)
    assert parts.committer.reserved_for == 4 and parts.committer.busy
    parts.committer.begin(state(4))
    assert parts.committer.busy and parts.committer.finished() is None and not checkpoint.commits(parts.folder)
    parts.learner.gate.set()
    done = parts.committer.settle()
    assert done.place == checkpoint.latest(parts.folder) and done.metrics["checkpoint/paused_s"] == 0.25 and not parts.committer.busy
    assert (done.place / "learner" / "weights").stat().st_size == 1000 and (done.place / GROUPS).read_bytes() == b"groups"
    assert json.loads((done.place / "state.json").read_text()) == state(4)


@pytest.mark.parametrize("where", ["learner", "buffer"])
def test_a_disk_that_is_full_costs_the_commit_and_the_one_before_stays_good(parts, where):
    parts.learner.gate.set()
    assert save(parts, 2).place
    if where == "learner":
        parts.learner.error = "OSError: [Errno 28] No space left on device"
    else:
        parts.buffer.error = StorageError("cannot write groups: No space left on device")
    done = save(parts, 4)
    assert done.place is None and "No space left" in done.problem and done.metrics["checkpoint/failed_count"] == 1
    assert [p.name for p in parts.folder.checkpoints.iterdir()] == ["step-000002"]
    assert checkpoint.damage(checkpoint.latest(parts.folder)) is None
    parts.learner.error, parts.buffer.error = "", None
    assert save(parts, 6).place.name == "step-000006"


def test_a_failed_commit_is_removed_only_when_nobody_writes_into_it_any_more(parts):
    """The buffer fails at once, the learner has files to write yet: one that arrives during the removal would keep the folder."""
    parts.buffer.error = StorageError("cannot write groups: No space left on device")
    parts.committer.reserve(4)
    parts.committer.begin(state(4))
    assert not parts.committer._thread.join(0.3) and parts.committer.finished() is None and parts.learner.folder.is_dir()
    parts.learner.gate.set()
    assert "No space left" in parts.committer.settle().problem and not list(parts.folder.checkpoints.iterdir())


def test_what_a_killed_run_left_half_written_makes_room_for_the_next_commit(parts):
    (parts.folder.checkpoints / "step-000002.part" / "learner").mkdir(parents=True)
    parts.learner.gate.set()
    assert save(parts, 4).place and [p.name for p in parts.folder.checkpoints.iterdir()] == ["step-000004"]


def test_a_disk_that_is_full_at_the_very_last_file_leaves_no_trace(parts, monkeypatch):
    parts.learner.gate.set()
    save(parts, 2)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_flush", full)
    done = save(parts, 4)
    assert "No space left" in done.problem and [p.name for p in parts.folder.checkpoints.iterdir()] == ["step-000002"]


def test_a_step_that_came_to_nothing_leaves_no_commit(parts):
    parts.committer.reserve(4)
    assert parts.committer.settle() is None and not parts.committer.busy
    assert not list(parts.folder.checkpoints.iterdir())


def test_a_learner_that_dies_while_it_saves_fails_the_commit_alone(parts, monkeypatch):
    parts.learner.gate.set()
    monkeypatch.setattr(Learner, "saved", lambda self: (_ for _ in ()).throw(RanksLost("learner-0 died")))
    assert "learner-0 died" in save(parts, 4).problem and not checkpoint.commits(parts.folder)
