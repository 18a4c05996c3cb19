"""A commit stands whole or not at all, and a damaged one is passed over aloud."""

from __future__ import annotations

import json

import pytest

from rayrl import checkpoint
from rayrl.errors import CheckpointError, StorageError
from rayrl.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", fresh=True)


def save(folder, step, *, keep=2, content=b"weights"):
    return checkpoint.commit(folder, step, {"step": step}, lambda path: (path / "model.bin").write_bytes(content * step), keep=keep)


def test_the_newest_commit_is_found_with_its_state_and_older_ones_are_let_go(folder):
    for step in (2, 4, 10):
        save(folder, step)
    assert [p.name for p in checkpoint.commits(folder)] == ["step-000004", "step-000010"]
    place = checkpoint.latest(folder)
    assert checkpoint.read_state(place) == {"step": 10} and (place / "learner" / "model.bin").read_bytes() == b"weights" * 10


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_commit_is_passed_over_and_said_so(folder, harm):
    save(folder, 1)
    newest = save(folder, 2)
    file = newest / "learner" / "model.bin"
    if harm == "truncate":
        file.write_bytes(b"weights")
    elif harm == "flip":
        file.write_bytes(b"weightsWEIGHTS")
    elif harm == "remove":
        file.unlink()
    else:
        (newest / "manifest.json").unlink()
    said = []
    assert checkpoint.latest(folder, said.append).name == "step-000001"
    assert len(said) == 1 and "step-000002" in said[0]


def test_a_full_disk_leaves_the_older_commit_intact(folder):
    save(folder, 1)

    def full(path):
        (path / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        checkpoint.commit(folder, 2, {}, full, keep=1)
    assert "free space" in caught.value.hint
    assert checkpoint.latest(folder).name == "step-000001" and not list(folder.checkpoints.glob("*.part"))


def test_without_any_good_commit_there_is_an_error_that_names_the_setting(folder):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.latest(folder)
    assert "checkpoint.every" in caught.value.hint


def test_a_folder_that_holds_a_run_is_not_written_over(folder):
    folder.metrics.write_text(json.dumps({"step": 1}) + "\n")
    with pytest.raises(StorageError, match="already holds a run") as caught:
        RunFolder.create(folder.path, fresh=True)
    assert "rayrl resume" in caught.value.hint
    assert RunFolder.create(folder.path, fresh=False).path == folder.path


def test_an_unwritable_place_is_named_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        RunFolder.create(tmp_path / "file" / "run", fresh=True)
