"""`rayrl compare`: what it reads from run folders, that it goes on where it stopped, and what it says of a run that fails."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rayrl import cli, compare
from rayrl.config.loading import load
from rayrl.errors import ConfigError

ARMS = [compare.Arm(name, name) for name in ("hacking/proxy", "hacking/worst_case")]
FAKE = """
import json, sys, pathlib
settings = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
seed, folder = int(settings["run.seed"]), pathlib.Path(settings["run.dir"])
if "worst_case" in sys.argv[2] and seed == 1: sys.exit("the judge fell asleep")
folder.mkdir(parents=True)
with open(folder / "metrics.jsonl", "w") as f:
    f.write(json.dumps({"step": 0, "eval/accuracy": 0.25}) + "\\n")
    for step in range(1, 21):
        row = {"step": step, "learner/loss": 1.0, "rollout/tokens": 100, "batch/accuracy": step / 20}
        row |= {"reward/mean": 2.0, "reward/correct": 0.5, "batch/trajectories": 64}
        f.write(json.dumps(row) + "\\n")
    f.write(json.dumps({"step": 20, "eval/accuracy": 0.5 + seed / 10}) + "\\n")
"""


@pytest.fixture
def fake_rayrl(instead_of_training):
    return instead_of_training(FAKE)


def test_rows_are_means_and_spreads_over_the_seeds_that_finished(fake_rayrl, tmp_path):
    said: list[str] = []
    rows = compare.compare(ARMS, compare.Series(seeds=3, out=tmp_path / "out", say=said.append), tokens=2000)
    proxy, worst = rows
    assert (proxy.runs, proxy.failed, worst.runs, worst.failed) == (3, 0, 2, 1)
    assert proxy.after == pytest.approx(0.6) and proxy.spread == pytest.approx(0.1) and proxy.before == 0.25
    assert proxy.tokens == 2000 and proxy.labels == 1280 and proxy.reward == 2.0 and proxy.rewards == {"correct": 0.5}
    assert any("exit status 1" in line and "asleep" in line for line in said)
    saved = json.loads((tmp_path / "out" / compare.TABLE).read_text())
    assert [row["recipe"] for row in saved["rows"]] == [arm.name for arm in ARMS]


def test_finished_runs_are_not_repeated_and_another_budget_is_another_comparison(fake_rayrl, tmp_path):
    out = tmp_path / "out"
    compare.compare(ARMS[:1], compare.Series(seeds=2, out=out, say=lambda text: None), tokens=2000)
    assert len(fake_rayrl) == 2
    again = compare.compare(ARMS[:1], compare.Series(seeds=3, out=out, say=lambda text: None), tokens=2000)
    assert len(fake_rayrl) == 3 and again[0].runs == 3
    compare.compare(ARMS[:1], compare.Series(seeds=1, out=out, say=lambda text: None), tokens=999)
    assert len(fake_rayrl) == 4
    compare.compare(ARMS[:1], compare.Series(seeds=1, out=out, overrides=["learner.optim.lr=1e-5"], say=lambda text: None), tokens=999)
    assert len(fake_rayrl) == 5, "other settings are another run"


def test_every_run_gets_the_same_budget_and_settings(fake_rayrl, tmp_path):
    compare.compare(
        ARMS, compare.Series(seeds=1, out=tmp_path / "o", overrides=["learner.optim.lr=1e-5"], say=lambda text: None), tokens=1234
    )
    for command in fake_rayrl:
        assert {"run.tokens=1234", "learner.optim.lr=1e-5", "run.seed=0"} <= set(command)


def test_a_recipe_that_cannot_run_is_refused_before_anything_starts(fake_rayrl, tmp_path):
    with pytest.raises(ConfigError):
        compare.compare([ARMS[0], compare.Arm("x", "no_such_recipe")], compare.Series(seeds=1, out=tmp_path / "o"), tokens=10)
    with pytest.raises(ConfigError, match="twice"):
        compare.compare(ARMS[:1] * 2, compare.Series(seeds=1, out=tmp_path / "o"), tokens=10)
    assert fake_rayrl == []


def test_all_runs_failing_is_a_table_of_nothing_and_an_exit_status(fake_rayrl, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "_outcome_of", lambda *a: None)
    assert cli.main(["compare", "hacking/proxy", "--seeds", "1", "--out", str(tmp_path / "o")]) == 12
    assert "1 failed" in capsys.readouterr().out
    assert math.isnan(json.loads((tmp_path / "o" / compare.TABLE).read_text())["rows"][0]["after"])


def test_the_picture_is_drawn(fake_rayrl, tmp_path):
    pytest.importorskip("matplotlib")
    compare.compare(ARMS, compare.Series(seeds=2, out=tmp_path / "out", say=lambda text: None), tokens=2000)
    picture = tmp_path / "out" / compare.PICTURE
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


@pytest.mark.parametrize("name", sorted(p.stem for p in Path("conf/recipes/hacking").glob("*.yaml")))
def test_every_hacking_recipe_measures_the_truth_and_never_trains_on_it(name):
    config = load(f"hacking/{name}").config
    assert config.rewards.components["correct"].weight == 0 and config.evaluation.component == "correct"
    assert any(c.verifier == "flattered" and c.weight > 0 for c in config.rewards.components.values())
