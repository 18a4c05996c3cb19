"""An agent's learner on DeepSpeed makes the updates of plain torch, whatever the ZeRO stage and the number of ranks.

python -m pytest -m slow tests/e2e/test_agent_deepspeed.py        # about two minutes
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from agent_ranks import config, networks, trained  # noqa: E402

from rayrl import driver  # noqa: E402
from rayrl.config.loading import load  # noqa: E402
from rayrl.learner.torch import TorchLearner  # noqa: E402
from rayrl.runtime.local import LocalStore  # noqa: E402
from rayrl.telemetry.jsonl import read_metrics  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BASE = ["batch.groups_per_step=4", "learner.minibatches=2", "learner.epochs=2", "agent.intrinsic={kind: count, coef: 0.3}"]


@pytest.mark.parametrize(("ranks", "stage", "more"), [(1, 0, []), (2, 0, []), (2, 2, ["agent.separate_values=true", "agent.credit=gae"])])
def test_ranks_and_zero_stage_do_not_change_an_agents_update(ranks, stage, more, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides = [*BASE, f"learner.zero_stage={stage}", *more]
    asked = {"ranks": ranks, "port": port, "out": str(tmp_path / "seen"), "overrides": overrides}
    command = [sys.executable, str(HERE / "agent_ranks.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, json.dumps(asked | {"rank": r})], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for r in range(ranks)
    ]
    try:
        outputs = [p.communicate(timeout=280)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert all(p.returncode == 0 for p in processes), outputs[0][-3000:]
    plain = config(*BASE, *more)
    wanted, reports = trained(TorchLearner(plain, LocalStore(), build=networks(plain)), plain)
    got = load_file(tmp_path / "seen.safetensors")
    assert got.keys() == wanted.keys() and max(float((got[n] - wanted[n]).abs().max()) for n in got) < 1e-4
    seen = json.loads((tmp_path / "seen.json").read_text())
    for mine, theirs in zip(reports, seen["reports"], strict=True):
        assert mine.keys() == theirs.keys()
        for key in (
            "learner/loss",
            "learner/grad_norm",
            "policy/entropy",
            "mismatch/abs_max",
            "value/mean",
            "reward/mean",
            "learner/frames",
        ):
            assert theirs[key] == pytest.approx(mine[key], rel=2e-3, abs=1e-5), key


def test_an_agent_trains_on_two_deepspeed_ranks_through_the_driver(tmp_path):
    small = ["agent.envs_per_worker=4", "agent.fragment_length=8", "agent.eval_episodes=4", "telemetry.wandb=off", "telemetry.report=false"]
    ranks = ["learner.backend=deepspeed", "learner.ranks=2", "learner.zero_stage=1", "batch.groups_per_step=4"]
    driver.train(load("agent_chain", [f"run.dir={tmp_path / 'run'}", "run.steps=6", *small, *ranks, "placement.object_store_mib=128"]))
    driver.resume(tmp_path / "run", ["run.steps=8"])
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "learner/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 9)) and all(row["sync/canary_gap_nats"] < 1e-5 for row in rows)
    assert rows[-1]["agent/frames"] == 8 * 4 * 4 * 8
