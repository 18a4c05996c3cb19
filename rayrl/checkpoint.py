"""One atomic commit of the whole run: written beside its place, checked, then renamed into it.

A commit is a folder ``step-NNNNNN`` with the files of the roles, ``state.json`` (step, version, ledger, counters) and
``manifest.json`` (size and digest of every file). A folder without a manifest, or with a file that does not match it, is not a
commit: `latest` falls back to the newest good one and says what it passed over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from rayrl.errors import CheckpointError
from rayrl.run_folder import RunFolder
from rayrl.telemetry.files import storage_errors

STATE, MANIFEST, LEARNER = "state.json", "manifest.json", "learner"


class Draft:
    """A commit that is being written: a folder beside its place, which `finish` checks and renames into it."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """Raises `StorageError` when the disk is full or not writable."""
        self._folder, self.step = folder, step
        self._place = folder.checkpoints / f"step-{step:06d}"
        self.path = self._place.with_suffix(".part")
        """Where the parts are written: the learner's into `LEARNER`, others beside it."""
        for left in folder.checkpoints.glob("step-*.part"):  # of a run that was killed: at most one commit is written at a time
            shutil.rmtree(left, ignore_errors=True)
        with storage_errors(self._place):
            (self.path / LEARNER).mkdir(parents=True)

    def finish(self, state: Mapping[str, Any], *, keep: int) -> Path:
        """Everything stands under its final name and on disk when this returns; all but the newest ``keep`` commits are removed then.

        Raises `StorageError` when the disk is full or not writable; the older commits are intact then.
        """
        work, place = self.path, self._place
        with storage_errors(place):
            (work / STATE).write_text(json.dumps(state), encoding="utf-8")
            files = {str(p.relative_to(work)): _fingerprint(p) for p in sorted(work.rglob("*")) if p.is_file()}
            (work / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
            for path in [*work.rglob("*"), work]:
                _flush(path)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(work, place)
            _flush(self._folder.checkpoints)
        for old in commits(self._folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return place

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def commit(folder: RunFolder, step: int, state: Mapping[str, Any], save_learner: Callable[[Path], None], *, keep: int) -> Path:
    """A whole commit at once, see `Draft`."""
    draft = Draft(folder, step)
    try:
        with storage_errors(draft.path):
            save_learner(draft.path / LEARNER)
        return draft.finish(state, keep=keep)
    finally:
        draft.discard()


def commits(folder: RunFolder) -> list[Path]:
    """All commits, oldest first, unchecked."""
    return sorted(p for p in folder.checkpoints.glob("step-*") if p.is_dir() and p.suffix != ".part")


def latest(folder: RunFolder, say: Callable[[str], None] = print) -> Path:
    """The newest commit whose files all match its manifest. Raises `CheckpointError` when there is none."""
    for place in reversed(commits(folder)):
        problem = damage(place)
        if problem is None:
            return place
        say(f"passed over {place.name}: {problem}")
    raise CheckpointError(f"{folder.path} holds no usable checkpoint", "set checkpoint.every so that a run can be continued")


def damage(place: Path) -> str | None:
    """What is wrong with a commit, or None."""
    try:
        files = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    for name, want in files.items():
        if not (place / name).is_file():
            return f"{name} is missing"
        if _fingerprint(place / name) != want:
            return f"{name} does not match its digest"
    return None


def read_state(place: Path) -> dict[str, Any]:
    return json.loads((place / STATE).read_text(encoding="utf-8"))


def export(run_dir: str | Path, out: str | Path) -> Path:
    """Copies the trained policy of a finished run as a Hugging Face checkpoint to ``out``."""
    policy, out = RunFolder(Path(run_dir)).policy, Path(out)
    if not (policy / "config.json").is_file():
        raise CheckpointError(
            f"{run_dir} has no exported policy", "let the run end, or stop it with Ctrl-C: both write it (checkpoint.export)"
        )
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty", "give a new folder")
    shutil.copytree(policy, out, dirs_exist_ok=True)
    return out


def _fingerprint(path: Path) -> list[Any]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return [path.stat().st_size, digest.hexdigest()]


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
