"""`rayrl labels`: runs of language models and of agents in one report, and a sweep over label budgets that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayrl import cli, economy
from rayrl.errors import ConfigError

FAKE = """
import json, sys, pathlib
settings = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
seed, budget = int(settings["run.seed"]), int(settings["feedback.budget.labels"])
if (seed, budget) == (1, 300): sys.exit("the judge fell asleep")
folder = pathlib.Path(settings["run.dir"])
folder.mkdir(parents=True)
rows = [{"step": 0, "eval/accuracy": 0.25}, {"step": 1, "feedback/labelled_count": budget, "feedback/tokens": 10 * budget}]
rows.append({"step": 1, "eval/accuracy": 0.25 + budget / 1000 + seed / 100})
(folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
config = {"run": {"seed": seed, "name": "x"}, "feedback": {"budget": {"labels": budget}}}
(folder / "config.yaml").write_text(json.dumps(config))
(folder / "status.json").write_text(json.dumps({"state": "finished", "recipe": sys.argv[2]}))
"""


def write_run(folder: Path, rows: list[dict], *, name: str = "oni_chain", seed: int = 0, budget: int | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(json.dumps({"run": {"seed": seed, "name": name}, "feedback": {"budget": {"labels": budget}}}))
    return folder


def agent_rows(labels: int, success: float) -> list[dict]:
    return [
        {"step": 0, "eval/return": 0.0, "eval/episode/success": 0.0},
        {"step": 5, "feedback/labelled_count": labels // 2, "feedback/tokens": 50.0, "feedback/cost_usd": 0.5},
        {"step": 5, "eval/return": success / 2, "eval/episode/success": success / 2},
        {"step": 10, "feedback/labelled_count": labels, "feedback/tokens": 100.0, "feedback/cost_usd": 1.0},
        {"step": 10, "eval/return": success, "eval/episode/success": success},
    ]


@pytest.fixture
def fake_rayrl(instead_of_training):
    return instead_of_training(FAKE)


def test_an_agents_run_says_how_good_it_was_with_how_many_labels(tmp_path):
    run = economy.read(write_run(tmp_path / "a", agent_rows(40, 0.8)))
    assert run.measure == "eval/episode/success" and run.labels == [0.0, 20, 40] and run.scores == [0.0, 0.4, 0.8]
    assert (run.name, run.budget, run.tokens, run.cost_usd) == ("oni_chain", None, 100.0, 1.0)


def test_rows_are_by_recipe_and_budget_and_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    folders = [
        write_run(tmp_path / f"{budget}-{seed}", agent_rows(budget or 99, 0.5 + seed / 10), budget=budget, seed=seed)
        for budget in (None, 30, 10)
        for seed in range(3)
    ]
    language = [{"step": 0, "eval/accuracy": 0.2}, {"step": 1, "feedback/labelled_count": 50.0}, {"step": 1, "eval/accuracy": 0.7}]
    folders.append(write_run(tmp_path / "language", language, name="feedback_judge"))
    rows = economy.report(folders, tmp_path / "out")
    assert [(r.name, r.budget, r.runs) for r in rows] == [
        ("feedback_judge", None, 1),
        ("oni_chain", 10, 3),
        ("oni_chain", 30, 3),
        ("oni_chain", None, 3),
    ]
    assert rows[0].gain == pytest.approx(0.5) and rows[1].after == pytest.approx(0.6) and rows[1].spread == pytest.approx(0.1)
    assert (tmp_path / "out" / economy.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "out" / economy.TABLE).read_text())["runs"]) == 10


def test_one_command_sweeps_the_label_budget_and_repeats_nothing_that_is_finished(fake_rayrl, tmp_path, capsys):
    command = ["labels", "feedback_judge", "run.steps=1", "--budgets", "100", "300", "--seeds", "2", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 12, "one run failed"
    said = capsys.readouterr().out
    assert "0.350" in said and "asleep" in said and len(fake_rayrl) == 4
    assert cli.main([*command, "--json"]) == 12 and len(fake_rayrl) == 5, "only the one that failed"
    rows = json.loads(capsys.readouterr().out)
    assert [(row["budget"], row["runs"]) for row in rows] == [(100, 2), (300, 1)]


def test_what_is_no_judged_run_is_named(tmp_path, capsys):
    with pytest.raises(ConfigError, match="holds no run"):
        economy.read(tmp_path)
    unjudged = write_run(tmp_path / "a", [{"step": 0, "eval/accuracy": 0.2}, {"step": 1, "eval/accuracy": 0.3}])
    with pytest.raises(ConfigError, match="no labels of a judge"):
        economy.read(unjudged)
    assert cli.main(["labels", str(unjudged), "no_such_run"]) == ConfigError.exit_code
    assert cli.main(["labels", "feedback_judge", "feedback_online_rm"]) == ConfigError.exit_code
    assert "a single recipe" in capsys.readouterr().err
