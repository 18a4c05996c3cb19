"""One atomic commit of the whole run: written beside its place, checked, then renamed into it.

A commit is a folder ``step-NNNNNN`` with the learner's files, ``state.json`` (step, version, ledger, counters) and
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


def commit(folder: RunFolder, step: int, state: Mapping[str, Any], save_learner: Callable[[Path], None], *, keep: int) -> Path:
    """Writes one commit and removes all but the newest ``keep``. Nothing of an older commit is touched before the new one stands.

    Raises `StorageError` when the disk is full or not writable; the older commits are intact then.
    """
    place = folder.checkpoints / f"step-{step:06d}"
    work = place.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with storage_errors(place):
            (work / LEARNER).mkdir(parents=True)
            save_learner(work / LEARNER)
            (work / STATE).write_text(json.dumps(state), encoding="utf-8")
            files = {str(p.relative_to(work)): _fingerprint(p) for p in sorted(work.rglob("*")) if p.is_file()}
            (work / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
            for path in [p for p in work.rglob("*") if p.is_file()] + [work]:
                _flush(path)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(work, place)
            _flush(folder.checkpoints)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for old in commits(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


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
