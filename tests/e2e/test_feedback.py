"""Language models taught by a judge, the stand-in behind its HTTP interface: scores as rewards, and comparisons behind a reward model.

pytest tests/e2e/test_feedback.py -m slow      # do they learn, and do judges without an opinion teach nothing: 12 runs, about 25 minutes
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import pytest

from rayrl import driver
from rayrl.config.loading import load
from rayrl.data.sources import load_rows
from rayrl.feedback.database import Database
from rayrl.models import tiny, warmstart
from rayrl.telemetry.jsonl import read_metrics
from tests.standin.process import standin

pytestmark = pytest.mark.usefixtures("one_ray")
QUIET = ["telemetry.wandb=off", "telemetry.report=false", "checkpoint.export=false", "placement.object_store_mib=256"]
SHORT = [
    *("run.steps=3", "batch.groups_per_step=4", "batch.group_size=4", "rollout.engine=fake", "sync.canary=false", "learner.cpu_threads=1"),
    *("evaluation.enabled=false", "rewards.deadline_s=30"),
]
SEEDS = range(3)


def train(recipe: str, folder: Path, url: str, *overrides: str) -> list[dict]:
    driver.train(load(recipe, [f"run.dir={folder}", f"feedback.base_url={url}", *QUIET, *overrides]))
    return read_metrics(folder / "metrics.jsonl")


def steps(rows: list[dict]) -> list[dict]:
    return [row for row in rows if "learner/loss" in row]


def labels(folder: Path) -> list:
    database = Database(folder / "feedback.sqlite", read_only=True)
    try:
        return list(database.all_annotations())
    finally:
        database.close()


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nano"))


def test_a_judges_scores_are_the_reward_and_nothing_is_asked_twice(nano, tmp_path):
    with standin("--malformed", "0.1") as judge:
        rows = steps(train("feedback_judge", tmp_path / "run", judge.url, f"model.path={nano}", "feedback.retry.max_attempts=1", *SHORT))
        asked = judge.stats()
    assert len(rows) == 3 and all(isfinite(row["learner/loss"]) and 0 <= row["reward/graded"] <= 1 for row in rows)
    found = labels(tmp_path / "run")
    assert asked["again"] == 0 and len(found) == len({a.key for a in found}) > 12
    failed = [a for a in found if not a.values]
    assert failed and all(a.error.startswith("malformed") for a in failed), "an answer that cannot be read is no number"
    assert sum(row["rewards/failed_count"] for row in rows) > 0


def test_comparisons_teach_a_reward_model_that_scores_what_the_policy_writes(nano, tmp_path):
    model = [f"reward_models.online.{k}" for k in ("min_labels=8", "warmup_updates=8", "updates_per_arrival=4", "validation_share=0.3")]
    with standin() as judge:
        rows = steps(train("feedback_online_rm", tmp_path / "run", judge.url, f"model.path={nano}", *SHORT, *model))
    last = rows[-1]
    assert len(rows) == 3 and all(isfinite(row["learner/loss"]) and isfinite(row["reward/preferred"]) for row in rows)
    assert last["reward_model/online/version"] >= 2 and last["reward_model/online/labels"] >= 8
    assert 0 <= last["reward_model/online/held_out_calibration_error"] <= 1
    assert {a.kind for a in labels(tmp_path / "run")} == {"pair"}


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The recipes' starting policy; the one in models/ where there is one."""
    config = load("feedback_judge", check=False).config
    if Path(config.model.path).is_dir():
        return config.model.path
    problems = [(str(row.prompt), row.answer) for row in load_rows(config.data, "train")]
    return warmstart.build(str(tmp_path_factory.mktemp("warm") / "start"), problems, seed=0)


def accuracies(recipe: str, folder: Path, warm: str, seed: int, *judge: str) -> list[float]:
    """Held-out accuracy at every evaluation, in percent."""
    with standin(*judge) as server:
        rows = train(recipe, folder, server.url, f"model.path={warm}", f"run.seed={seed}", "evaluation.every=10")
    found = [100 * row["eval/accuracy"] for row in rows if row.get("eval/accuracy") is not None]
    print(f"{recipe} seed {seed} {' '.join(judge)}: " + " ".join(f"{a:.1f}" for a in found), flush=True)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("recipe", ["feedback_judge", "feedback_online_rm"])
def test_a_judge_teaches_what_is_right(recipe, seed, warm, tmp_path):
    found = accuracies(recipe, tmp_path / "run", warm, seed)
    assert found[-1] > found[0] + 25


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("recipe", ["feedback_judge", "feedback_online_rm"])
def test_a_judge_without_an_opinion_teaches_nothing(recipe, seed, warm, tmp_path):
    """Labels that come as often, of nothing: if accuracy rises all the same, something else than the judge is teaching."""
    found = accuracies(recipe, tmp_path / "run", warm, seed, "--control", "random", "--seed", str(seed))
    assert found[-1] < found[0] + 5
