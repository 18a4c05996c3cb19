"""Environment agents with the real parts: Ray actors, the driver loop, the buffer, weight proofs. Read from the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rayrl import driver
from rayrl.config.loading import load
from rayrl.telemetry.jsonl import read_metrics

pytestmark = pytest.mark.usefixtures("one_ray")
FAST = [
    "telemetry.wandb=off",
    "agent.envs_per_worker=4",
    "agent.fragment_length=8",
    "agent.eval_episodes=8",
    "agent.env_args={length: 2, max_steps: 12}",
    "placement.object_store_mib=128",
]


@pytest.fixture
def run(tmp_path):
    def start(*overrides: str, name: str = "run") -> Path:
        return driver.train(load("agent_chain", [f"run.dir={tmp_path / name}", *FAST, *overrides]))

    return start


def rows(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "learner/loss" in row]


def test_an_asynchronous_agent_run_trains_each_ticket_once_and_resumes(run):
    folder = run("run.steps=12", "buffer.max_staleness=2")
    found = rows(folder)
    assert [row["step"] for row in found] == list(range(1, 13))
    assert all(row["batch/staleness_max_versions"] <= 2 and row["sync/canary_gap_nats"] < 1e-5 for row in found)
    assert found[-1]["agent/frames"] == 12 * 2 * 4 * 8 and found[-1]["buffer/trained_groups"] == 24
    assert found[-1]["episode/length"] <= 12
    exams = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [exam["step"] for exam in exams] == [0, 12] and exams[0]["count"] == 8 and 0 <= exams[1]["sums"]["success"] <= 1
    driver.resume(folder, ["run.steps=16"])
    assert [row["step"] for row in rows(folder)] == list(range(1, 17)) and rows(folder)[-1]["agent/frames"] == 16 * 2 * 4 * 8


def test_deterministic_agent_runs_repeat_bit_for_bit_and_no_weight_on_novelty_is_plain_ppo(run):
    exact = ["run.steps=4", "run.deterministic=true", "buffer.max_staleness=0", "agent.credit=gae", "evaluation.enabled=false"]
    folders = [run(*exact, name="plain"), run(*exact, "agent.intrinsic={kind: count, coef: 0.0}", name="unweighted")]
    first, second = (load_file(folder / "policy" / "model.safetensors") for folder in folders)
    assert first.keys() == second.keys() and all(bool((first[k] == second[k]).all()) for k in first)


def test_the_policy_may_be_computed_in_an_actor_for_all_workers_and_learns_the_same(run):
    exact = ["run.steps=4", "run.deterministic=true", "buffer.max_staleness=0", "agent.workers=1", "evaluation.enabled=false"]
    folders = [run(*exact, name="own"), run(*exact, "agent.inference.actors=1", name="shared")]
    first, second = (load_file(folder / "policy" / "model.safetensors") for folder in folders)
    assert all(bool((first[k] == second[k]).all()) for k in first)
    steps = [row["inference/steps"] for row in rows(folders[1])]
    assert sum(steps) >= 3 * 2 * 4 * 8 and not any("inference/steps" in row for row in rows(folders[0]))
