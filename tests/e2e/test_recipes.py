"""Every shipped recipe trains: driver, buffer, scoring and learner, a tiny model, two steps. All in one process, with an engine that
makes up its samples: that Ray, vLLM and DeepSpeed do what the in-process parts do is what the tests beside this one are about.
"""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path

import pytest

import rayrl
from rayrl import driver
from rayrl.config.loading import load
from rayrl.models import tiny
from rayrl.telemetry.jsonl import read_metrics

ROOT = Path(rayrl.__file__).resolve().parent.parent
ALGORITHMS = sorted(p.stem for p in (ROOT / "conf" / "recipes" / "algorithms").glob("*.yaml"))
METHODS = sorted(p.stem for p in (ROOT / "conf" / "recipes" / "methods").glob("*.yaml"))
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
FAST = [
    "run.steps=2",
    "batch.groups_per_step=4",
    "batch.group_size=4",
    "rollout.engine=fake",
    "sync.canary=false",
    "evaluation.enabled=false",
    "checkpoint.export=false",
    "telemetry.wandb=off",
    "learner.cpu_threads=1",
    "learner.backend=torch",
    "placement.runtime=in_process",
]


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nano"))


@pytest.fixture(autouse=True)
def user_code_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def steps(recipe: str, folder: Path, *overrides: str) -> list[dict]:
    driver.train(load(recipe, [f"run.dir={folder}", *FAST, *overrides]))
    return [row for row in read_metrics(folder / "metrics.jsonl") if "learner/loss" in row]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_recipe_trains(name, nano, tmp_path):
    rows = steps(f"algorithms/{name}", tmp_path / "run", f"model.path={nano}", "rewards.components.correct.verifier=user_code:parity")
    assert len(rows) == 2
    assert all(isfinite(row["learner/loss"]) and row["learner/grad_norm"] > 0 for row in rows)
    assert ("value/loss" in rows[0]) == (load(f"algorithms/{name}", check=False).config.algorithm.name == "ppo")


def test_a_run_ends_when_its_tokens_are_spent(nano, tmp_path):
    overrides = [f"model.path={nano}", "rewards.components.correct.verifier=user_code:parity", "run.steps=50", "run.tokens=600"]
    rows = steps("arithmetic_grpo", tmp_path / "run", *overrides)
    spent = [row["rollout/tokens"] for row in rows]
    assert sum(spent) >= 600 > sum(spent[:-1]) and len(rows) < 50
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_recipe_trains(name, nano, tmp_path):
    """`python -m pytest -m slow tests/e2e/test_recipes.py` (about two seconds each)."""
    rows = steps(f"methods/{name}", tmp_path / "run", f"model.path={nano}", "rewards.components.correct.verifier=user_code:parity")
    assert len(rows) == 2 and all(isfinite(row["learner/loss"]) for row in rows)


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K file is not on this machine")
def test_gsm8k_loads_renders_and_trains(nano, tmp_path):
    small = ["model.max_length=1024", "data.max_prompt_length=960", "rollout.sampling.max_tokens=32", "data.chat_template=false"]
    rows = steps("gsm8k", tmp_path / "run", f"model.path={nano}", f"data.source={GSM8K}", *small, "data.eval_size=8", "placement.mode=cpu")
    assert len(rows) == 2
    for row in rows:
        assert isfinite(row["learner/loss"]) and 0 <= row["reward/correct"] <= 1 and row["rewards/failed_count"] == 0
