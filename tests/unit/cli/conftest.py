"""`python -m rayrl train ...` without training, for commands that start it."""

from __future__ import annotations

import sys

import pytest

from rayrl import compare


@pytest.fixture
def instead_of_training(tmp_path, monkeypatch):
    """Called with a script's text: it runs with the command's arguments in place of rayrl. Returns the list of commands."""

    def replace(text: str) -> list:
        script = tmp_path / "fake.py"
        script.write_text(text)
        real, calls = compare.subprocess.run, []

        def run(command, **kwargs):
            calls.append(command)
            return real([sys.executable, str(script), *command[3:]], **kwargs)

        monkeypatch.setattr(compare.subprocess, "run", run)
        return calls

    return replace
