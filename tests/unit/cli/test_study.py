"""`rayrl study`: every combination of the axes is a run, and each cell is held against the one it must be held against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayrl import cli, study
from rayrl.compare import Row
from rayrl.config.loading import load
from rayrl.errors import ConfigError

FAKE = """
import json, sys, pathlib
settings = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
folder = pathlib.Path(settings["run.dir"])
folder.mkdir(parents=True)
after = 0.3 + 0.1 * int(settings["run.seed"]) + (0.4 if settings["learner.optim.lr"] == "2" else 0.0)
with open(folder / "metrics.jsonl", "w") as f:
    f.write(json.dumps({"step": 0, "eval/accuracy": 0.25, "eval/pass_at_8": 0.9}) + "\\n")
    row = {"learner/loss": 1.0, "rollout/tokens": 100, "batch/accuracy": 0.5, "reward/mean": 2.0, "batch/trajectories": 64}
    f.write(json.dumps({"step": 1} | row) + "\\n")
    f.write(json.dumps({"step": 1, "eval/accuracy": after}) + "\\n")
"""
SMALL = """
recipe: arithmetic_grpo
settings: [run.steps=2]
axes:
  lr: {slow: [learner.optim.lr=1], fast: [learner.optim.lr=2]}
  size: {small: [], large: [batch.group_size=16]}
against: {lr: slow}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_every_combination_is_an_arm_with_the_settings_of_its_options(file):
    found = study.arms(study.find(str(file)))
    assert list(found) == [("slow", "small"), ("slow", "large"), ("fast", "small"), ("fast", "large")]
    assert found["fast", "large"].overrides == ("run.steps=2", "learner.optim.lr=2", "batch.group_size=16")
    assert found["fast", "large"].name == "lr=fast size=large"


def test_a_cell_is_held_against_the_one_that_differs_in_one_axis_alone(file, instead_of_training, tmp_path, capsys):
    instead_of_training(FAKE)
    out = tmp_path / "out"
    assert cli.main(["study", str(file), "--seeds", "2", "--tokens", "100", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "aligned" in shown and "+40.0 ± 0.0" in shown
    cells = {tuple(c["place"].values()): c for c in json.loads((out / study.FILE).read_text())["cells"]}
    assert cells["slow", "small"]["ahead"] == [] and cells["fast", "large"]["ahead"] == pytest.approx([0.4, 0.4])
    assert cells["fast", "small"]["pass_at"] == {"1": 0.25, "8": 0.9} and cells["fast", "small"]["uneven"] == 0


def test_only_some_options_are_run_and_what_there_is_not_is_refused(file):
    whole = study.find(str(file))
    assert list(study.arms(study.narrowed(whole, {"lr": ["fast"]}))) == [("fast", "small"), ("fast", "large")]
    assert study.narrowed(whole, {"lr": ["fast"]}).against is None, "what it would be held against is not run"
    with pytest.raises(ConfigError, match="no axis"):
        study.narrowed(whole, {"colour": ["red"]})
    with pytest.raises(ConfigError, match="no option"):
        study.narrowed(whole, {"lr": ["medium"]})


@pytest.mark.parametrize("text", ["recipe: x", "recipe: x\naxes: {}\nmore: 1", SMALL.replace("lr: slow}", "lr: medium}")])
def test_a_file_that_is_no_study_is_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError):
        study.find(str(tmp_path / "bad.yaml"))
    with pytest.raises(ConfigError, match="alignment"):
        study.find("no_such_study")


def test_what_was_spent_differently_is_told_and_a_seed_that_failed_leaves_nothing_to_compare():
    row = lambda after, tokens: Row("x", len(after), 0, 0.2, 0.5, 0.0, 1.0, tokens, 64.0, 1.0, {}, ({}, {}), after)
    one = study.Study("x", {"side": {"a": (), "b": ()}}, (), ("side", "b"))
    a, b = study.cells(one, {("a",): row((0.5, 0.6), 103.0), ("b",): row((0.4, 0.4), 100.0)})
    assert a.uneven == pytest.approx(3 / 103) and b.uneven == 0 and study.summary(a.ahead) == "+15.0 ± 7.1"
    lone, _ = study.cells(one, {("a",): row((0.5,), 100.0), ("b",): row((0.4, 0.4), 100.0)})
    assert lone.ahead == () and study.summary(lone.ahead) == "—"


@pytest.mark.parametrize("name", sorted(p.stem for p in Path("conf/studies").glob("*.yaml")))
def test_every_cell_of_every_study_of_the_checkout_can_be_planned(name):
    found = study.find(name)
    for axis, options in found.axes.items():  # one cell per option: settings of different axes do not meet
        for option in options:
            only = {other: [next(iter(found.axes[other]))] for other in found.axes if other != axis} | {axis: [option]}
            for arm in study.arms(study.narrowed(found, only)).values():
                load(arm.recipe, [*arm.overrides, "run.tokens=1000"], profile="in_process")
