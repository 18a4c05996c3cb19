"""`launch/submit.sh` on a real cluster of two nodes that asks for a token: learner on one, engine on the other, weights and trajectories
across. `pytest -s -m slow tests/cluster` runs it and prints what crossed the wire."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rayrl
from rayrl.telemetry.jsonl import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHECKOUT = Path(rayrl.__file__).resolve().parent.parent
JOB_S = 240
TWO_NODES = [
    "placement.nodes=2",
    "placement.cpus_per_node=1",
    "placement.node_groups={rollout: rollout, learner: learner}",
    "learner.cpu_threads=1",
    "rollout.engine=torch",
    "rollout.sampling.max_tokens=12",
    "batch.groups_per_step=8",
    "evaluation.enabled=false",
    "telemetry.wandb=off",
]


def submit(cluster, *words: str, **variables: str) -> subprocess.Popen:
    argv = cluster.command(0, [str(CHECKOUT / "launch" / "submit.sh"), *words])
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(argv, env=cluster.env | variables, start_new_session=True, **options)


def jobs_of(cluster, *words: str) -> str:
    argv = cluster.command(0, [sys.executable, "-m", "rayrl", "ps", "--address", cluster.env["RAY_API_SERVER_ADDRESS"], *words])
    return subprocess.run(argv, env=cluster.env, cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=60).stdout


def rows(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [row for row in read_metrics(file) if "learner/loss" in row] if file.exists() else []


def node_of(folder: Path, role: str) -> str:
    return re.search(r"pid \d+ on \S+ \((\S+)\)", (folder / "logs" / f"{role}.log").read_text())[1]


def test_a_job_trains_across_two_nodes_and_its_log_and_status_are_shown(cluster, model, tmp_path):
    folder, seen = tmp_path / "run", []
    job = submit(cluster, "train", "arithmetic_grpo", f"model.path={model}", f"run.dir={folder}", "run.steps=6", *TWO_NODES)
    limit = time.monotonic() + JOB_S
    while job.poll() is None and time.monotonic() < limit:
        if len(rows(folder)) > len(seen):
            seen.append((cluster.received(0), cluster.received(1)))
        time.sleep(0.05)
    log = job.communicate(timeout=30)[0]
    assert job.returncode == 0, log
    assert "6/6" in log and "SUCCEEDED" in log
    listed = json.loads(jobs_of(cluster, "--all", "--json"))
    assert listed[0]["state"] == "succeeded" and listed[0]["job"] in log and "train arithmetic_grpo" in listed[0]["command"]
    assert "no job is running there" in jobs_of(cluster)
    steps = rows(folder)
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6] and all(row["sync/canary_gap_nats"] < 1e-4 for row in steps)
    if not cluster.wire:
        return
    assert (node_of(folder, "learner-0"), node_of(folder, "rollout-0")) == (cluster.address_of(0), cluster.address_of(1))
    to_learner, to_rollout = np.diff(np.array(seen), axis=0).mean(axis=0)
    weights = steps[-1]["sync/bytes"]
    mean = lambda name: float(np.mean([row[name] for row in steps[1:]]))
    print(f"\n  per step to the rollout node {to_rollout / 2**20:.2f} MiB (weights {weights / 2**20:.2f} MiB), ", end="")
    print(f"to the learner node {to_learner / 2**10:.0f} KiB; step {mean('step/total_s'):.2f} s: ", end="")
    print(
        ", ".join(f"{what} {mean(f'step/{name}_s'):.2f} s" for what, name in (("generation", "generate_wait"), ("learning", "learn"))),
        end="",
    )
    print(f", weight update {mean('sync/total_s'):.2f} s")
    assert weights <= to_rollout < 1.5 * weights + 2**18  # every weight crosses once
    assert 0 < to_learner < 2**20


def test_ctrl_c_stops_the_job_after_it_saved(cluster, model, tmp_path):
    folder = tmp_path / "run"
    words = ["train", "arithmetic_grpo", f"model.path={model}", f"run.dir={folder}", "run.steps=1000", *TWO_NODES]
    job = submit(cluster, *words, RAYRL_ON_INTERRUPT="stop")
    limit = time.monotonic() + JOB_S
    while not rows(folder) and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)
    log = job.communicate(timeout=90)[0]
    assert job.returncode == 130, log
    assert "stopping" in log and "STOPPED" in log
    assert list((folder / "checkpoints").glob("step-*/manifest.json")) and not (folder / "crash.json").exists()


def test_ctrl_c_without_a_terminal_leaves_the_job_and_says_how_to_follow_and_stop_it(cluster, model, tmp_path):
    folder = tmp_path / "run"
    job = submit(cluster, "train", "arithmetic_grpo", f"model.path={model}", f"run.dir={folder}", "run.steps=1000", *TWO_NODES)
    limit = time.monotonic() + JOB_S
    while not rows(folder) and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)
    log = job.communicate(timeout=60)[0]
    assert job.returncode == 130, log
    (stop,) = re.findall(r"Stop: (ray job stop \S+)", log)
    done = subprocess.run(cluster.command(0, stop.split()), env=cluster.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_that_fails_says_so_and_exits_non_zero(cluster, tmp_path):
    job = submit(cluster, "train", "arithmetic_grpo", "batch.group_size=1", f"run.dir={tmp_path}")
    log = job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "batch.group_size is 1" in log and "FAILED" in log


def test_without_the_token_nobody_is_let_in(cluster, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    job = submit(cluster, "check", RAY_AUTH_TOKEN_PATH=str(wrong))
    log = job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "submit: job" not in log
    wrong.chmod(0o644)
    job = submit(cluster, "check", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert "chmod 600" in job.communicate(timeout=60)[0] and job.returncode == 2
