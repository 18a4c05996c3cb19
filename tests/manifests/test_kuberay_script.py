"""`launch/kuberay.sh` with a kubectl that only notes what it is asked: which manifest, which namespace, which exit status."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import rayrl

CHECKOUT = Path(rayrl.__file__).resolve().parent.parent
KUBECTL = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
  *jobDeploymentStatus*) echo "${DEPLOYMENT:-Running}" ;;
  *endTime*) echo "${END-2026-01-01T00:00:00Z}" ;;
  *jobStatus*) echo "${STATUS:-SUCCEEDED}" ;;
  *message*) echo "the message" ;;
  *logs*) echo "the log of the run" ;;
esac
"""


@pytest.fixture
def kuberay(tmp_path):
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)

    def run(*arguments: str, **variables: str):
        env = os.environ | {"CALLS": str(tmp_path / "calls"), "RAYRL_KUBE_WAIT_S": "1"} | variables
        env["RAYRL_VENV"], env["PATH"] = str(tmp_path / "none"), f"{tmp_path}:{env['PATH']}"
        script = str(CHECKOUT / "launch" / "kuberay.sh")
        done = subprocess.run([script, *arguments], env=env, capture_output=True, text=True, timeout=60)
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return done, calls

    return run


def test_a_job_is_applied_followed_and_its_success_is_the_exit_status(kuberay):
    done, calls = kuberay("gpu", "--namespace", "training")
    assert done.returncode == 0, done.stderr
    assert "the log of the run" in done.stdout and "SUCCEEDED the message" in done.stdout
    assert calls[0] == "--namespace training apply -f cluster/rendered/gpu-rayjob.yaml"
    assert all(call.startswith("--namespace training ") for call in calls)
    assert any("logs --follow job/rayrl-gpu-gsm8k" in call for call in calls)


def test_a_job_that_failed_exits_non_zero(kuberay):
    done, _ = kuberay("cpu", STATUS="FAILED")
    assert done.returncode == 1 and "FAILED" in done.stdout


def test_nodes_that_do_not_come_are_an_error_after_the_limit(kuberay):
    done, calls = kuberay("gpu", DEPLOYMENT="Initializing", END="")
    assert done.returncode == 2 and "no nodes within 1 s" in done.stderr
    assert any("get pods" in call for call in calls)


def test_a_cluster_stays_and_the_way_to_submit_is_told(kuberay):
    done, calls = kuberay("cpu", "--cluster")
    assert done.returncode == 0 and "launch/submit.sh" in done.stdout
    assert calls[0] == "apply -f cluster/rendered/cpu-raycluster.yaml" and "raycluster/rayrl-cpu" in calls[1]


def test_stop_deletes_what_was_applied(kuberay):
    assert kuberay("gpu", "--stop")[1] == ["delete rayjob rayrl-gpu-gsm8k --ignore-not-found"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a profile"),
        (["--cluster"], "give a profile"),
        (["tpu"], "there is no profile tpu: cpu gpu"),
        (["gpu", "--namespace"], "needs a name"),
        (["gpu", "--fast"], "unknown argument --fast"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_applied(kuberay, arguments, said):
    done, calls = kuberay(*arguments)
    assert done.returncode == 2 and said in done.stderr and calls == []
