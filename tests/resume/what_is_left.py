"""What a run left behind: its commits, and what it trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from rayrl.data.arrow import SCHEMA, decode
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
