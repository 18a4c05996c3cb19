"""What the README quotes from the code is the code."""

import inspect
from pathlib import Path

import rayrl
from rayrl import driver

README = Path(rayrl.__file__).resolve().parent.parent / "README.md"


def test_the_quoted_driver_loop_is_the_driver_loop():
    assert inspect.getsource(driver.loop).rstrip() in README.read_text(encoding="utf-8")
