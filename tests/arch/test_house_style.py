"""What keeps the code readable and can be counted."""

from pathlib import Path

import pytest

import rayrl

ROOT = Path(rayrl.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))
LONGEST = 400
TABLES = {"config/schema.py"}
"""One long list of settings reads better in one place."""


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_can_be_read_in_one_sitting(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST or path.relative_to(ROOT).as_posix() in TABLES


def test_no_room_is_called_utils():
    assert not [p for p in ROOT.rglob("*") if p.stem in ("utils", "helpers", "common", "misc")]
