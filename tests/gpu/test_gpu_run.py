"""A whole run on one GPU, as a user starts it: the engine and the learner share it by turns, and the policy learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rayrl
from rayrl import driver
from rayrl.cli import main
from rayrl.config.loading import load
from rayrl.telemetry.jsonl import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")]
ROOT = Path(rayrl.__file__).resolve().parent.parent
COMMON = ["telemetry.wandb=off", "evaluation.every=0"]


@pytest.fixture(scope="module")
def policy() -> Path:
    """The starting model of the demo, built unless it is there."""
    folder = ROOT / "models" / "warmstart"
    assert main(["warmstart", "--recipe", "arithmetic_grpo", "--out", str(folder)]) == 0
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "learner/loss" in row]


def accuracies(folder: Path) -> list[float]:
    return [json.loads(line)["accuracy"] for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_a_colocated_run_learns_and_hands_the_gpu_over_at_every_step(policy, tmp_path):
    """Learning, CUDA IPC, sleep and wake, the canary of every update, and log-probs that agree: one run shows them all."""
    folder = tmp_path / "run"
    driver.train(load("arithmetic_grpo", [*COMMON, f"run.dir={folder}", f"model.path={policy}", "run.steps=30"], profile="gpu_1"))
    rows = rows_of(folder)
    assert len(rows) == 30
    assert all(row["rollout/handed_over_bytes"] > 2**30 for row in rows)
    assert all(row["mismatch/abs"] < 0.05 for row in rows)
    before, after = accuracies(folder)[0], accuracies(folder)[-1]
    assert after > before + 0.2
