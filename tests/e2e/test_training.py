"""Whole runs with the real parts: Ray actors, vLLM, DeepSpeed. Tiny models, a few steps, every claim read from the run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rayrl import driver
from rayrl.config.loading import load
from rayrl.data.arrow import SCHEMA, decode
from rayrl.errors import Interrupted, RoleFailed
from rayrl.models import tiny
from rayrl.telemetry.jsonl import read_metrics

pytestmark = pytest.mark.usefixtures("one_ray")
FAST = [
    "telemetry.wandb=off",
    "batch.groups_per_step=4",
    "batch.group_size=4",
    "rollout.sampling.max_tokens=12",
    "rollout.max_running=32",
    "data.eval_size=8",
    "evaluation.every=0",
    "learner.cpu_threads=1",
    "placement.object_store_mib=128",
    "rewards.components={correct: {verifier: 'user_code:parity'}}",
]
SMALL = ["rollout.engine=fake", "sync.canary=false", "evaluation.enabled=false", "learner.backend=torch", "telemetry.spans=false"]
IN_PROCESS = "placement.runtime=in_process"
"""For what Ray has no part in."""


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nano"))


@pytest.fixture(autouse=True)
def user_code_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def run(nano, tmp_path):
    """Trains `arithmetic_grpo` on the tiny model with overrides; returns the folder."""

    def start(*overrides: str, name: str = "run") -> Path:
        return driver.train(load("arithmetic_grpo", [f"model.path={nano}", f"run.dir={tmp_path / name}", *FAST, *overrides]))

    return start


def rows(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "learner/loss" in row]


def trajectories(folder: Path) -> list:
    found = []
    for part in sorted((folder / "rollouts").glob("*.parquet")):
        table = pq.read_table(part).select(SCHEMA.names).cast(SCHEMA)
        found += [t for batch in table.combine_chunks().to_batches() for t in decode(batch)]
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_synchronous_run_trains_on_policy_and_leaves_everything_in_its_folder(run, nano):
    folder = run("run.steps=3", "rollout.engine=vllm", "algorithm.kl.coef=0.01", "telemetry.wandb=offline")
    steps = rows(folder)
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert row["batch/staleness_max_versions"] == 0 and row["batch/trajectories"] == 16
        assert row["mismatch/abs"] < 1e-4 and row["sync/canary_gap_nats"] < 1e-4  # engine and learner compute one policy (float32)
    assert [row["sync/version"] for row in steps] == [1, 2, 3] and steps[-1]["buffer/trained_groups"] == 12
    found = trajectories(folder)
    assert len({t.id for t in found}) == len(found) == 48 and {t.ordinal for t in found} == set(range(12))
    assert all(span.version == t.ordinal // 4 for t in found for span in t.version_spans)
    assert not same(weights(folder / "policy"), weights(nano))
    evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [e["step"] for e in evaluations] == [0, 3] and evaluations[0]["count"] == 8
    assert list((folder / "wandb").glob("offline-run-*")) and (folder / "config_origins.json").exists()
    table = pq.read_table(folder / "rollouts")
    assert table["reward"].to_pylist() == [dict(c)["correct"] for c in table["components"].to_pylist()]
    trace = json.loads((folder / "spans.json").read_text().rstrip().rstrip(",") + "]")
    assert {"step", "update_weights", "generate"} <= {e["name"] for e in trace}


def test_an_asynchronous_run_overlaps_and_never_exceeds_its_staleness_bound(run):
    folder = run("run.steps=6", "buffer.max_staleness=2", "rollout.engine=vllm", "evaluation.enabled=false", "sync.canary_tolerance=0.01")
    steps = rows(folder)
    assert len(steps) == 6 and 0 < max(row["batch/staleness_max_versions"] for row in steps) <= 2
    found = trajectories(folder)
    assert len({t.id for t in found}) == len(found) == 6 * 16
    assert not any(key.startswith("buffer/dropped/") for key in steps[-1])  # pacing throws nothing away


def test_with_learning_rate_zero_nothing_moves(run, nano):
    folder = run("run.steps=3", "learner.optim.lr=0.0", "rollout.engine=torch", "evaluation.enabled=false")
    assert same(weights(folder / "policy"), weights(nano))
    assert all(row["mismatch/abs"] < 1e-4 for row in rows(folder))


def test_the_torch_engine_two_ranks_and_zero_2_train_as_vllm_one_rank_does(run):
    common = ["run.steps=2", "evaluation.enabled=false", "rollout.sampling.top_k=1", "run.deterministic=true"]  # one possible sample each
    one = run(*common, "rollout.engine=vllm", name="one")
    two = run(*common, "rollout.engine=torch", "learner.ranks=2", "learner.zero_stage=2", name="two")
    assert [t.token_ids.tolist() for t in trajectories(one)] == [t.token_ids.tolist() for t in trajectories(two)]
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a["learner/grad_norm"] == pytest.approx(b["learner/grad_norm"], rel=1e-3, abs=1e-6)


def test_a_tool_environment_over_several_turns_trains_on_no_token_that_the_policy_did_not_choose(run):
    folder = run(
        "run.steps=1",
        "rollout.engine=vllm",
        "rollout.env=user_code:Parrot",
        "rollout.max_turns=3",
        "model.max_length=200",
        "evaluation.enabled=true",
    )
    found = trajectories(folder)
    assert {len(t.turns) for t in found} == {3}
    for t in found:
        chosen = [i for start, end in t.turns for i in range(start, end)]
        assert t.action_mask.nonzero()[0].tolist() == chosen
        assert (t.behavior_logprobs[~t.action_mask] == 0).all() and (t.behavior_logprobs[t.action_mask] <= 0).all()
    assert rows(folder)[0]["mismatch/abs"] < 1e-4


def test_a_reward_that_raises_hangs_or_is_no_number_costs_only_its_own_samples(run):
    folder = run(*SMALL, IN_PROCESS, "run.steps=2", "rewards.timeout_s=0.5", "rewards.components.bad.verifier=user_code:moody")
    steps = rows(folder)
    assert len(steps) == 2 and sum(row["rewards/failed_count"] for row in steps) > 0
    assert all(0 < row["batch/trajectories"] < 16 for row in steps)
    assert steps[-1]["buffer/failed_scores/bad"] == 32 - sum(row["batch/trajectories"] for row in steps)


def test_dynamic_sampling_refills_groups_that_teach_nothing(run):
    rewards = ["rewards.components={correct: {verifier: 'user_code:mostly_equal'}}", "evaluation.component=correct"]
    folder = run(*SMALL, IN_PROCESS, "run.steps=2", "algorithm.name=dapo", *rewards)
    steps = rows(folder)
    assert all(row["batch/groups"] == 4 and row["batch/zero_variance_share"] == 0 for row in steps)
    assert steps[-1]["buffer/dropped/zero_variance"] > 0


@pytest.mark.slow  # chaos/test_every_role.py kills each role of a run, this one too
def test_a_rollout_worker_that_is_killed_is_replaced_and_no_ordinal_is_lost_or_trained_twice(run, tmp_path):
    def kill_one() -> None:
        log, metrics = tmp_path / "run" / "logs" / "rollout-0.log", tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.exists() and '"step": 2' in metrics.read_text()):
            time.sleep(0.02)
        os.kill(int(log.read_text().split("pid ")[1].split()[0]), signal.SIGKILL)

    killer = Thread(target=kill_one)
    killer.start()
    folder = run("run.steps=12", "rollout.engine=fake", "sync.canary=false", "evaluation.enabled=false", "buffer.max_staleness=1")
    killer.join(10)
    found = trajectories(folder)
    assert len({t.id for t in found}) == len(found) == 12 * 16
    assert (folder / "logs" / "rollout-0.log").read_text().count("pid ") == 2


def test_a_learner_that_dies_ends_the_run_with_its_name_and_a_crash_report(run, tmp_path):
    def kill_learner() -> None:
        log, metrics = tmp_path / "run" / "logs" / "learner-0.log", tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.exists() and '"step": 2' in metrics.read_text()):
            time.sleep(0.02)
        os.kill(int(log.read_text().split("pid ")[1].split()[0]), signal.SIGKILL)

    killer = Thread(target=kill_learner)
    killer.start()
    with pytest.raises(RoleFailed, match="learner-0 died"):
        run("run.steps=5000", *SMALL)
    killer.join(10)
    assert "learner-0 died" in json.loads((tmp_path / "run" / "crash.json").read_text())["message"]


def kill_learner_once(folder: Path, step: int) -> Thread:
    def kill():
        metrics, log = folder / "metrics.jsonl", folder / "logs" / "learner-0.log"
        while not (metrics.exists() and any(row["step"] >= step for row in read_metrics(metrics))):
            time.sleep(0.01)
        os.kill(int(log.read_text().split("pid ")[-1].split()[0]), signal.SIGKILL)

    thread = Thread(target=kill)
    thread.start()
    return thread


def test_a_learner_that_dies_goes_on_from_the_last_commit_as_if_nothing_had_happened(run, tmp_path):
    settings = [*SMALL, "run.steps=60", "run.deterministic=true", "checkpoint.every=5"]
    killer = kill_learner_once(tmp_path / "broken", 12)
    broken = run(*settings, name="broken")
    killer.join(10)
    straight = run(*settings, name="straight")
    assert "on from" in (broken / "events.jsonl").read_text()
    assert same(weights(straight / "policy"), weights(broken / "policy"))
    assert [r["learner/loss"] for r in rows(straight)] == [r["learner/loss"] for r in rows(broken)]


@pytest.mark.slow  # chaos/test_every_role.py kills the learner of an asynchronous run, among others
def test_an_asynchronous_learner_that_dies_trains_every_ordinal_once_into_the_weights_that_live_on(run, tmp_path):
    killer = kill_learner_once(tmp_path / "run", 12)
    folder = run(*SMALL, "run.steps=60", "buffer.max_staleness=2", "checkpoint.every=5")
    killer.join(10)
    assert "on from" in (folder / "events.jsonl").read_text()
    assert [row["step"] for row in rows(folder)] == list(range(1, 61))
    assert all(row["batch/staleness_max_versions"] <= 2 for row in rows(folder))
    trained = [pq.read_table(part, columns=["ordinal", "reason"]) for part in (folder / "rollouts").glob("*.parquet")]
    ordinals = [o for t in trained for o, why in zip(t["ordinal"].to_pylist(), t["reason"].to_pylist(), strict=True) if why is None]
    assert len(set(ordinals)) == 60 * 4 and len(ordinals) == 60 * 4 * 4  # four samples each, in one step only
    ledger = json.loads((sorted((folder / "checkpoints").glob("step-*"))[-1] / "state.json").read_text())["buffer"]
    assert set(ordinals) == {o for start, end in ledger["trained"] for o in range(start, end)}


# ---- processes of their own: signals and kills of the driver ------------------------------------------------------------------


def command(nano, folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "rayrl", "train", "arithmetic_grpo", f"model.path={nano}", f"run.dir={folder}", *FAST, *overrides]


def wait_for(process: subprocess.Popen, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while not ((folder / "metrics.jsonl").exists() and f'"step": {step}' in (folder / "metrics.jsonl").read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def wait_for_commit(process: subprocess.Popen, folder: Path) -> None:
    """They are written beside training."""
    deadline = time.monotonic() + 60
    while not list((folder / "checkpoints").glob("step-*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def test_kill_9_of_the_driver_and_resume_is_the_uninterrupted_run_bit_for_bit(nano, tmp_path):
    settings = ["run.steps=6", "run.deterministic=true", "rollout.engine=vllm", "evaluation.enabled=false"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    beside = subprocess.Popen(command(nano, straight, *settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command(nano, broken, *settings, "checkpoint.every=2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process, broken, 3)
    wait_for_commit(process, broken)
    process.kill()
    process.communicate(timeout=30)
    assert len(rows(broken)) < 6
    subprocess.run([sys.executable, "-m", "rayrl", "resume", str(broken)], check=True, timeout=240, capture_output=True)
    said = beside.communicate(timeout=240)[0]
    assert beside.returncode == 0, said
    assert same(weights(straight / "policy"), weights(broken / "policy"))
    for a, b in zip(rows(straight), rows(broken), strict=True):
        assert {k: a[k] for k in ("learner/loss", "learner/grad_norm", "reward/mean")} == {
            k: b[k] for k in ("learner/loss", "learner/grad_norm", "reward/mean")
        }
    assert [t.token_ids.tolist() for t in trajectories(straight)] == [t.token_ids.tolist() for t in trajectories(broken)]


def test_ctrl_c_saves_exits_130_and_says_how_to_go_on(nano, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(nano, folder, *SMALL, "run.steps=5000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(process, folder, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == Interrupted.exit_code == 130
    assert f"rayrl resume {folder}" in err and "Traceback" not in err + out
    last = rows(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"step-{last:06d}" / "manifest.json").exists()
    driver.resume(folder, [f"run.steps={last + 2}"])
    assert [row["step"] for row in rows(folder)] == list(range(1, last + 3))
    found = trajectories(folder)
    assert len({t.id for t in found}) == len(found) == (last + 2) * 16


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_asynchronous_run_is_killed_and_goes_on_with_two_engines_and_two_ranks_of_zero_3(nano, tmp_path):
    folder = tmp_path / "run"
    settings = ["run.steps=5000", "rollout.engine=vllm", "evaluation.enabled=false", "buffer.max_staleness=2", "checkpoint.every=2"]
    process = subprocess.Popen(command(nano, folder, *settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process, folder, 5)
    wait_for_commit(process, folder)
    process.kill()
    process.communicate(timeout=30)
    steps = rows(folder)[-1]["step"] + 5
    more = ["rollout.engine=torch", "rollout.num_engines=2", "learner.ranks=2", "learner.zero_stage=3", "checkpoint.keep=9"]
    resume = [sys.executable, "-m", "rayrl", "resume", str(folder), f"run.steps={steps}", *more]
    subprocess.run(resume, check=True, timeout=600, capture_output=True)
    assert [row["step"] for row in rows(folder)] == list(range(1, steps + 1))
    assert rows(folder)[-1]["rollout/workers_count"] == 2
    assert all(row["batch/staleness_max_versions"] <= 2 and row["sync/canary_gap_nats"] < 1e-2 for row in rows(folder))
    trained = [pq.read_table(part, columns=["ordinal", "step", "reason"]).to_pylist() for part in (folder / "rollouts").glob("*.parquet")]
    pairs = {(row["ordinal"], row["step"]) for part in trained for row in part if row["reason"] is None}
    assert len(pairs) == len({ordinal for ordinal, _ in pairs}) == 4 * steps
