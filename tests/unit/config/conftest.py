from pathlib import Path

import pytest

MINIMAL = """\
model:
  path: some/model
data:
  source: task:arithmetic
rewards:
  components:
    correct:
      verifier: arithmetic
"""


@pytest.fixture
def recipe(tmp_path: Path):
    """Writes a recipe under a name, the minimal one by default, and returns its path."""

    def write(name: str = "recipe", text: str = MINIMAL) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write
