"""A run is watched from its folder: the lines that training prints, until it ends."""

from __future__ import annotations

import io
import json
import sys

import pytest

from rayrl.cli import main
from rayrl.config.loading import load, save
from rayrl.errors import ConfigError
from rayrl.telemetry.console import Console
from rayrl.telemetry.events import find_runs
from rayrl.watch import watch, watch_job

STEP = {
    "reward/mean": 0.5,
    "batch/accuracy": 0.25,
    "step/tokens_per_s": 2000.0,
    "batch/staleness_mean_versions": 0.0,
    "rollout/length_mean_tokens": 19.0,
    "step/total_s": 2.0,
    "learner/busy_s": 0.5,
    "rollout/busy_s": 1.5,
    "rollout/wait_s": 0.5,
    "mismatch/abs": None,
}


class Folder:
    def __init__(self, path):
        self.path = path
        loaded = load("arithmetic_grpo", [f"run.dir={path}", "run.name=watched", "run.steps=3"], check=False)
        path.mkdir(parents=True)
        save(loaded, path)

    def add(self, name, row, end="\n"):
        with (self.path / name).open("a") as file:
            file.write(json.dumps(row) + end)

    def status(self, state):
        (self.path / "status.json").write_text(json.dumps({"run": "watched", "state": state, "host": "elsewhere", "step": 1, "target": 3}))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def seen(run, **options):
    out = io.StringIO()
    status = watch(run.path, console=Console(out, color=False, width=120), **options)
    return status, out.getvalue()


def test_it_follows_until_the_run_ends_and_misses_no_line(folder):
    folder.status("running")
    folder.add("metrics.jsonl", {"step": 1} | STEP)

    turns = iter(range(9))

    def go_on(_seconds):
        turn = next(turns)
        if turn == 0:
            folder.add("metrics.jsonl", {"step": 2} | STEP, end="")  # half a line so far
        elif turn == 1:
            folder.add("metrics.jsonl", {}, end="")  # ruins it: a torn line is never shown
            folder.add("metrics.jsonl", {})
            folder.add("events.jsonl", {"kind": "saved", "text": "step-000002", "step": 2})
        else:
            folder.add("metrics.jsonl", {"step": 3} | STEP)
            folder.status("finished")

    status, text = seen(folder, sleep=go_on)
    lines = [line for line in text.splitlines() if "/3 " in line]
    assert status == 0 and [line.split()[0] for line in lines] == ["1/3", "3/3"] and "saved: step-000002" in text
    assert lines[0].split()[1:4] == ["0.500", "25.0", "%"] and "rollout (learner waited 75 %)" in lines[0]


def test_once_prints_what_is_there(folder):
    folder.status("running")
    folder.add("metrics.jsonl", {"step": 1} | STEP)
    status, text = seen(folder, once=True, sleep=None)
    assert status == 0 and "watched" in text and "1/3" in text


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_a_run_that_ended_early_is_not_a_success(folder, state):
    folder.status(state)
    status, text = seen(folder)
    assert status != 0 and "before its target" in text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        watch(tmp_path)


def test_running_runs_are_listed_first_and_dead_ones_told_apart(tmp_path):
    for name, state in [("a", "finished"), ("b", "running")]:
        Folder(tmp_path / name).status(state)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "status.json").write_text("{")
    assert [(row["folder"].rsplit("/", 1)[1], row["alive"]) for row in find_runs([tmp_path])] == [("b", True), ("a", False)]
    assert [row["state"] for row in find_runs([tmp_path / "b"])] == ["running"]


@pytest.mark.parametrize(("state", "status"), [("SUCCEEDED", 0), ("FAILED", 12), ("RUNNING", 0)])
def test_a_job_of_a_cluster_is_followed_by_its_id(tmp_path, monkeypatch, capfd, state, status):
    tool = tmp_path / "ray"
    log = 'logs) [ $3 = --follow ] && echo "  1/3  of $4 at $RAY_API_SERVER_ADDRESS" ;;'
    tool.write_text(f"#!/bin/sh\ncase $2 in\n{log}\nstatus) echo \"Status for job '$3': {state}\" ;;\nesac\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert main(["watch", "rayrl-7", "--address", "http://head:8265"]) == status
    assert "1/3  of rayrl-7 at http://head:8265" in capfd.readouterr().out


def test_an_unknown_job_is_named(tmp_path, monkeypatch):
    tool = tmp_path / "ray"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="no job rayrl-8"):
        watch_job("rayrl-8", "http://head:8265")
