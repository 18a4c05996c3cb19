import json
import sys
import types
from pathlib import Path

import pytest

from rayrl import cli
from rayrl.cli.parser import build_parser
from rayrl.errors import ConfigError, DeadlineExceeded

COMMANDS = ["train", "resume", "plan", "check", "eval", "export", "methods", "warmstart", "train-rm", "compare", "labels"]


@pytest.fixture
def driver(monkeypatch):
    """A driver that records what it is asked: training itself is tested elsewhere."""
    import rayrl

    calls = []
    fake = types.ModuleType("rayrl.driver")
    fake.train = lambda loaded: calls.append(loaded) or Path("runs/x")
    fake.resume = lambda run_dir, overrides: calls.append((run_dir, overrides)) or run_dir
    fake.calls = calls
    monkeypatch.setitem(sys.modules, "rayrl.driver", fake)
    monkeypatch.setattr(rayrl, "driver", fake, raising=False)
    return fake


def test_train_hands_the_driver_a_checked_configuration_and_prints_the_run_folder(driver, capsys):
    assert cli.main(["train", "arithmetic_grpo", "run.steps=3", "--profile", "cpu", "run.seed=5"]) == 0
    config = driver.calls[0].config
    assert (config.run.steps, config.run.seed) == (3, 5), "overrides may stand before and after options"
    assert "runs/x" in capsys.readouterr().out


def test_resume_passes_folder_and_overrides(driver):
    assert cli.main(["resume", "runs/y", "run.steps=9"]) == 0
    assert driver.calls == [(Path("runs/y"), ["run.steps=9"])]


def test_errors_for_people_have_message_hint_and_exit_status_and_no_traceback(driver, capsys):
    def late(loaded):
        raise DeadlineExceeded("the learner waited 5 s for rollout-0", "raise deadlines.generate_s")

    driver.train = late
    assert cli.main(["train", "arithmetic_grpo"]) == DeadlineExceeded.exit_code
    err = capsys.readouterr().err
    assert "the learner waited 5 s" in err and "hint: raise deadlines.generate_s" in err and "Traceback" not in err


def test_a_wrong_configuration_never_reaches_the_driver(driver, capsys):
    assert cli.main(["train", "arithmetic_grpo", "run.stepz=3"]) == ConfigError.exit_code
    assert driver.calls == [] and "run.steps" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(driver, capsys):
    def interrupted(loaded):
        raise KeyboardInterrupt

    driver.train = interrupted
    assert cli.main(["train", "arithmetic_grpo"]) == 130


def test_a_programming_error_keeps_its_traceback(driver):
    def broken(loaded):
        raise ZeroDivisionError

    driver.train = broken
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "arithmetic_grpo"])


@pytest.mark.parametrize("argv", [["fly"], ["train"], ["train", "x", "--fast"], ["check", "run.steps=3"], ["export", "runs/x"]])
def test_what_is_not_understood_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0 and len(capsys.readouterr().out.splitlines()) > 5


def test_the_commands_are_those_that_the_help_lists():
    assert all(f"    {command}" in build_parser().format_help() for command in COMMANDS)


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 0
    assert "rayrl check" in capsys.readouterr().out


def test_methods_lists_every_preset_with_a_recipe_that_exists(capsys):
    from rayrl.algorithms.registry import PRESETS
    from rayrl.config.layers import find_recipe

    assert cli.main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["algorithms"]
    assert [row["name"] for row in rows] == list(PRESETS)
    assert all(find_recipe(row["recipe"]).is_file() for row in rows)
    assert cli.main(["methods"]) == 0
    assert all(name in capsys.readouterr().out for name in ["dapo"])


def test_the_warm_start_is_taught_on_the_training_problems_only(monkeypatch, tmp_path):
    import rayrl.models.warmstart as warmstart
    from rayrl.config.loading import load
    from rayrl.data.sources import load_rows

    asked = {}
    monkeypatch.setattr(
        warmstart, "build", lambda folder, problems, *, seed: asked.update(folder=folder, problems=problems, seed=seed) or folder
    )
    assert cli.main(["warmstart", "--out", str(tmp_path / "m"), "--seed", "4"]) == 0
    assert asked["folder"] == str(tmp_path / "m") and asked["seed"] == 4
    data = load("arithmetic_grpo").config.data
    assert len(asked["problems"]) == len(load_rows(data, "train"))
    assert not {prompt for prompt, _ in asked["problems"]} & {row.prompt for row in load_rows(data, "eval")}


@pytest.mark.parametrize("line", ["compare a b", "labels oni_chain", "study verifier", "train a"])
def test_settings_may_follow_options(line, monkeypatch):
    name = line.split()[0]
    seen = []
    monkeypatch.setattr(f"rayrl.cli.commands.{name}", lambda arguments: seen.append(arguments.overrides))
    option = ["--profile", "in_process"]
    assert cli.main([*line.split(), *option, "run.seed=3", "learner.cpu_threads=1"]) == 0
    assert seen == [["run.seed=3", "learner.cpu_threads=1"]]
