"""Runs that are stopped and killed from outside, and what they left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from run_child import Child
from safetensors.torch import load_file

from rayrl.data.arrow import SCHEMA, decode
from rayrl.models import tiny
from rayrl.telemetry.jsonl import read_metrics
from rayrl.types import Trajectory

SMALL = [
    "telemetry.wandb=off",
    "telemetry.report=false",
    "telemetry.spans=false",
    "batch.groups_per_step=4",
    "batch.group_size=4",
    "rollout.engine=fake",
    "rollout.sampling.max_tokens=12",
    "rollout.max_running=32",
    "sync.canary=false",
    "data.eval_size=8",
    "evaluation.enabled=false",
    "learner.backend=torch",
    "learner.cpu_threads=1",
    "placement.object_store_mib=128",
]
"""A language model of a few thousand parameters, with an engine that makes up its samples."""
AGENT = "agent_chain"


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


def rows(folder: Path) -> list[dict]:
    """One row per learner step."""
    file = folder / "metrics.jsonl"
    return [row for row in read_metrics(file) if "learner/loss" in row] if file.exists() else []


def last_step(folder: Path) -> int:
    found = rows(folder)
    return found[-1]["step"] if found else 0


def commits(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "checkpoints").glob("step-*[0-9]/manifest.json"))


def state(place: Path) -> dict:
    return json.loads((place / "state.json").read_text())


def policy(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def trained_samples(folder: Path) -> list[tuple[int, int]]:
    """``(ordinal, step)`` of every sample that was trained on, as the archive has it."""
    found = []
    for part in sorted((folder / "rollouts").glob("*.parquet")):
        table = pq.read_table(part, columns=["ordinal", "step", "reason"]).to_pylist()
        found += [(row["ordinal"], row["step"]) for row in table if row["reason"] is None]
    return found


def trajectories(folder: Path) -> list[Trajectory]:
    """Every sample of the archive."""
    parts = [pq.read_table(part).select(SCHEMA.names).cast(SCHEMA) for part in sorted((folder / "rollouts").glob("*.parquet"))]
    return [t for table in parts for batch in table.combine_chunks().to_batches() for t in decode(batch)]
