"""The failure table: each role of a run is killed once while the run goes on, and the ledger is exact at the end.

python -m pytest tests/chaos/test_every_role.py
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread

import pytest
from havoc import assert_exact, living, rows, trained_by_parquet

from rayrl import driver
from rayrl.config.loading import load
from rayrl.models import tiny

pytestmark = pytest.mark.timeout(900)
SHARED = ["telemetry.wandb=off", "telemetry.report=false", "telemetry.spans=false", "placement.object_store_mib=128", "checkpoint.every=4"]
LANGUAGE = [
    *SHARED,
    "run.steps=5000",
    "batch.groups_per_step=4",
    "batch.group_size=2",
    "rollout.engine=fake",
    "rollout.num_engines=2",
    "rollout.sampling.max_tokens=12",
    "sync.canary=false",
    "evaluation.enabled=false",
    "learner.backend=torch",
    "learner.cpu_threads=1",
    "buffer.max_staleness=2",
]


class EachOnce(Thread):
    """Kills one role after the other, each when the run has gone on for ``calm`` steps since; then asks the run to end."""

    def __init__(self, folder: Path, roles: list[str], target: list, calm: int = 3) -> None:
        super().__init__(daemon=True)
        self._folder, self._roles, self._target, self._calm, self.killed, self.back = folder, roles, target, calm, [], {}

    def run(self) -> None:
        for role in self._roles:
            self._progress(self._calm)
            pid = living(self._folder)[role]
            self._kill(pid)
            self.killed.append(role)
            began = time.monotonic()
            while living(self._folder).get(role, pid) == pid and time.monotonic() < began + 60:
                time.sleep(0.02)
            self._progress(1)
            self.back[role] = time.monotonic() - began
        self._progress(self._calm)
        self._target.append(rows(self._folder)[-1]["step"])

    def _kill(self, pid: int) -> None:
        import os
        import signal

        os.kill(pid, signal.SIGKILL)

    def _progress(self, steps: int) -> None:
        """Returns when the run did as many steps more."""
        at, limit = self._step(), time.monotonic() + 240
        while self._step() < at + steps:
            assert time.monotonic() < limit, f"no progress after {self.killed}"
            time.sleep(0.05)

    def _step(self) -> int:
        found = rows(self._folder)
        return found[-1]["step"] if found else 0


def survive(loaded, folder: Path, roles: list[str], monkeypatch) -> EachOnce:
    """Runs until every role was killed once, and a little longer."""
    from rayrl.run import Run

    told: list[int] = []
    monkeypatch.setattr(Run, "target", property(lambda run: told[0] + 4 if told else run.config.run.steps))
    killer = EachOnce(folder, roles, told)
    killer.start()
    driver.train(loaded)
    killer.join(10)
    assert killer.killed == roles
    print({role: f"{seconds:.1f} s" for role, seconds in killer.back.items()})
    return killer


def test_each_role_of_a_language_model_run_dies_once(tmp_path, monkeypatch):
    folder, nano = tmp_path / "run", tiny.save(tmp_path / "nano")
    code = Path(__file__).parents[1] / "e2e"
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", str(code))
    rewards = "rewards.components={correct: {verifier: 'user_code:parity'}}"
    loaded = load("arithmetic_grpo", [*LANGUAGE, f"model.path={nano}", f"run.dir={folder}", rewards, "algorithm.kl.coef=0.01"])
    survive(loaded, folder, ["rollout-0", "scorer-0", "reference-0", "archive", "buffer", "learner-0"], monkeypatch)
    steps = rows(folder)[-1]["step"]
    assert_exact(folder, steps, 4)
    trained = trained_by_parquet(folder)
    assert len(trained) == 2 * len(set(trained)), "a group was written, and trained, in more than one step"
    assert max(row["batch/staleness_max_versions"] for row in rows(folder)) <= 2


def test_each_role_of_an_agents_run_dies_once(tmp_path, monkeypatch):
    """With an inference actor, without whom no worker goes on."""
    folder = tmp_path / "run"
    small = ["agent.envs_per_worker=4", "agent.fragment_length=8", "agent.env_args={length: 2, max_steps: 12}", "agent.inference.actors=1"]
    steps = ["run.steps=20000", "batch.groups_per_step=2", "buffer.max_staleness=4", "evaluation.enabled=false", "learner.cpu_threads=1"]
    loaded = load("agent_chain", [*SHARED, *small, *steps, f"run.dir={folder}"])
    survive(loaded, folder, ["rollout-0", "inference-0", "buffer", "learner-0", "inference-0"], monkeypatch)
    assert_exact(folder, rows(folder)[-1]["step"], 2)
