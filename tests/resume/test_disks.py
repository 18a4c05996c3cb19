"""Disks that are full or slow. The full one is real: a small file system in memory, mounted where the commits go. Needs root."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from what_is_left import commits, last_step, policy, rows, same

from rayrl import checkpoint
from rayrl.errors import StorageError

BALLAST_MIB = 16


@pytest.fixture
def small_disk(tmp_path) -> Iterator:
    """``small_disk(folder)`` mounts `BALLAST_MIB` of space there; skips where nobody may."""
    mounted: list[Path] = []

    def mount(folder: Path) -> Path:
        folder.mkdir(parents=True)
        argv = ["mount", "-t", "tmpfs", "-o", f"size={BALLAST_MIB}m", "tmpfs", str(folder)]
        with contextlib.suppress(OSError):
            if subprocess.run(argv, capture_output=True, timeout=10, check=False).returncode == 0:
                mounted.append(folder)
                return folder
        pytest.skip("a file system cannot be mounted here")

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, timeout=10, check=True)


def fill(folder: Path) -> Path:
    """A file that leaves no byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def test_commits_that_do_not_fit_are_said_the_last_good_one_stays_and_the_run_is_continued_bit_for_bit(start, small_disk, tmp_path):
    """The run goes on without them; when its last step cannot be saved either, it ends with that, and an exit status of its own."""
    settings = ["run.deterministic=true", "checkpoint.every=2"]
    disk = small_disk(tmp_path / "broken" / "checkpoints")
    broken = start("broken", "run.steps=12", *settings)
    broken.wait_until(lambda: len(commits(broken.folder)) >= 2)
    ballast = fill(disk)
    said = broken.end(StorageError.exit_code)
    assert "could not be saved, the commits before it are good" in said and "No space left on device" in said
    assert "step 12 could not be saved" in said and f"rayrl resume {broken.folder}" in said and "Traceback" not in said
    assert last_step(broken.folder) == 12 and (broken.folder / "crash.json").exists()
    good = commits(broken.folder)[-1]
    assert good.name < "step-000012" and checkpoint.damage(good) is None and not list(disk.glob("*.part"))
    ballast.unlink()
    start("broken", resume=True).end()
    straight = start("straight", "run.steps=12", *settings)
    straight.end()
    assert commits(broken.folder)[-1].name == "step-000012" and same(policy(straight.folder), policy(broken.folder))
    assert [row["learner/loss"] for row in rows(straight.folder)] == [row["learner/loss"] for row in rows(broken.folder)]


@pytest.mark.slow
def test_a_run_folder_without_a_free_byte_ends_the_run_with_the_remedy_and_it_is_continued_exactly(start, small_disk, tmp_path):
    """Nothing can be written down any more, neither numbers nor trajectories: training on would be for nothing."""
    settings = ["run.deterministic=true", "checkpoint.every=2"]
    disk = small_disk(tmp_path / "broken")
    broken = start("broken", "run.steps=100000", *settings)
    broken.wait_until(lambda: len(commits(broken.folder)) >= 2)
    ballast = fill(disk)
    said = broken.end(StorageError.exit_code)
    assert "No space left on device" in said and "free space" in said
    ballast.unlink()
    good = checkpoint.latest(checkpoint.RunFolder(broken.folder))
    steps = int(good.name.removeprefix("step-")) + 3
    start("broken", f"run.steps={steps}", resume=True).end()
    straight = start("straight", f"run.steps={steps}", *settings)
    straight.end()
    assert same(policy(straight.folder), policy(broken.folder))


def slow_disk() -> None:
    """Each file takes a while to get there."""
    import os
    import time

    flush = os.fsync

    def slowly(fd: int) -> None:
        time.sleep(0.15)
        flush(fd)

    os.fsync = slowly


def test_a_slow_disk_puts_commits_off_and_not_steps(start):
    run = start("run", "run.steps=100000", "checkpoint.every=1", "checkpoint.keep=100", fault=slow_disk)
    run.wait_until(lambda: len(commits(run.folder)) >= 2)
    run.terminate()
    run.end(143)
    found = rows(run.folder)
    written = {row["checkpoint/write_s"] for row in found if "checkpoint/write_s" in row}
    assert max(row["checkpoint/paused_s"] for row in found if "checkpoint/paused_s" in row) < min(written) / 3
    assert len(found) > 5 * len(written), "steps went on while commits were written"
    assert checkpoint.damage(commits(run.folder)[-1]) is None and commits(run.folder)[-1].name == f"step-{len(found):06d}"
