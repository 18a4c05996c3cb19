"""A store in a dict, and batches of synthetic trajectories on the smallest model."""

from __future__ import annotations

from pathlib import Path

import pytest
from learner_cases import DictStore

from rayrl.models import tiny


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"), tiny.NANO, seed=3)
