"""ONI on the chain with the stand-in judge behind its HTTP interface: labels become rewards, nothing is asked twice, and they teach.

python -m pytest tests/e2e/test_oni.py -m slow      # the runs that learn, and replays of a judge's log: 20 minutes
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from rayrl import driver
from rayrl.config.loading import load
from rayrl.telemetry.jsonl import read_metrics
from tests.standin.process import standin

pytestmark = pytest.mark.usefixtures("one_ray")
QUIET = ["telemetry.wandb=off", "telemetry.report=false", "placement.object_store_mib=128"]


def train(folder: Path, url: str, *overrides: str, recipe: str = "oni_chain") -> list[dict]:
    driver.train(load(recipe, [f"run.dir={folder}", f"feedback.base_url={url}", *QUIET, *overrides]))
    return [row for row in read_metrics(folder / "metrics.jsonl") if "learner/loss" in row]


def test_a_judges_labels_become_intrinsic_reward_while_the_agent_plays(tmp_path):
    with standin() as judge:
        rows = train(tmp_path / "run", judge.url, "run.steps=40", "agent.eval_episodes=8", "agent.envs_per_worker=4")
    last = rows[-1]
    assert last["feedback/labelled_count"] > 0 and last["feedback/failed_count"] == 0
    assert last["intrinsic/version"] > 0 and max(row["intrinsic/labelled_share"] for row in rows) > 0.1
    assert max(row["reward/intrinsic_part"] for row in rows) > 0 and all(row["intrinsic/lost_count"] == 0 for row in rows)


def test_a_model_of_the_labels_rates_every_message_and_comes_back_with_the_run(tmp_path):
    small = ["agent.eval_episodes=8", "agent.envs_per_worker=8", "reward_models.messages.updates_per_arrival=4"]
    with standin() as judge:
        rows = train(tmp_path / "run", judge.url, "run.steps=40", *small, recipe="oni_chain_classification")
        driver.resume(tmp_path / "run", ["run.steps=44"])
    last = rows[-1]
    assert last["intrinsic/version"] > 0 and last["intrinsic/labelled_share"] > 0.9 and last["reward_model/messages/labels"] > 16
    after = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "learner/loss" in row][40:]
    assert [row["step"] for row in after] == [41, 42, 43, 44]
    assert after[-1]["reward_model/messages/updates"] >= last["reward_model/messages/updates"]
    assert after[-1]["intrinsic/version"] >= last["intrinsic/version"] and after[-1]["intrinsic/labelled_share"] > 0.9


RECIPES = ["oni_chain", "oni_chain_classification", "oni_chain_ranking"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", RECIPES)
def test_labels_teach_what_the_reward_alone_never_shows(recipe, tmp_path):
    with standin() as judge:
        taught = train(tmp_path / "taught", judge.url, recipe=recipe)
    with standin("--control", "random") as judge:
        control = train(tmp_path / "control", judge.url, recipe=recipe)
    assert taught[-1]["episode/success"] >= 0.8 and control[-1]["episode/success"] <= 0.2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recorded_judge_gives_the_same_rewards_weights_and_labels_again(recipe, tmp_path):
    """Deterministic mode, one worker, answers from the log of an earlier run: nobody is asked, and two runs are one."""
    tiny = ["agent.envs_per_worker=4", "agent.workers=1", "evaluation.enabled=false", "run.steps=10"]
    if recipe != "oni_chain":
        tiny += [f"reward_models.messages.{k}" for k in ("updates_per_arrival=2", "batch_size=16", "min_labels=4", "validation_share=0.0")]
    with standin() as judge:
        train(tmp_path / "recorded", judge.url, *tiny, recipe=recipe)
    again = ["run.deterministic=true", "buffer.max_staleness=0", "feedback.judge=replay"]
    again += [f"feedback.replay={tmp_path / 'recorded' / 'feedback.sqlite'}"]
    runs = [train(tmp_path / name, "http://127.0.0.1:9/v1", *tiny, *again, recipe=recipe) for name in ("one", "two")]
    told = [[{k: v for k, v in row.items() if k.startswith(("reward/", "intrinsic/", "learner/loss"))} for row in rows] for rows in runs]
    assert told[0] == told[1] and any(row["reward/intrinsic_part"] > 0 for row in told[0])
    first, second = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("one", "two"))
    assert all(bool((first[k] == second[k]).all()) for k in first)
