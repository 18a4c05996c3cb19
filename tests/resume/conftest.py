"""Runs that are stopped and killed from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_child import Child
from what_is_left import AGENT, SMALL

from rayrl.models import tiny


@pytest.fixture(scope="session")
def nano(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("nano"))


@pytest.fixture
def start(nano, tmp_path) -> Iterator[Callable[..., Child]]:
    """``start("run", *overrides)`` begins a run of that name, ``start("run", *overrides, resume=True)`` continues it."""
    begun: list[Child] = []

    def begin(name: str, *overrides: str, recipe: str = "arithmetic_grpo", settings=SMALL, resume: bool = False, fault=None) -> Child:
        model = [] if recipe == AGENT else [f"model.path={nano}"]
        given = overrides if resume else (*model, *settings, *overrides)
        begun.append(Child(tmp_path / name, None if resume else recipe, given, fault))
        return begun[-1]

    yield begin
    for child in begun:
        child.kill()
