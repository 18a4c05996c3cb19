"""SIGTERM, as schedulers send it before they take a machine back: the run saves, exits with a code of its own, and is continued exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from what_is_left import SMALL, commits, last_step, policy, rows, same

from rayrl.errors import Preempted


def test_sigterm_saves_and_exits_143_and_the_resumed_run_is_the_uninterrupted_one(start):
    settings = ["run.steps=30", "run.deterministic=true"]
    broken = start("broken", *settings)
    broken.wait_until(lambda: last_step(broken.folder) >= 5)
    broken.terminate()
    broken.terminate()  # some send it more than once
    said = broken.end(Preempted.exit_code)
    assert Preempted.exit_code == 143 and f"rayrl resume {broken.folder}" in said and "Traceback" not in said
    last = last_step(broken.folder)
    assert 5 <= last < 30 and commits(broken.folder)[-1].name == f"step-{last:06d}"
    assert not (broken.folder / "policy").exists()  # whoever takes the machine back does not wait for an export
    start("broken", resume=True).end()
    straight = start("straight", *settings)
    straight.end()
    assert same(policy(straight.folder), policy(broken.folder))
    assert [r["learner/loss"] for r in rows(straight.folder)] == [r["learner/loss"] for r in rows(broken.folder)]


def never_score() -> None:
    """From the fourth step on no reward arrives."""
    from rayrl.rewards.scorer import VerifierScorer

    score = VerifierScorer.score

    def stuck(self, trajectories):
        if min(t.ordinal for t in trajectories) >= 12:
            time.sleep(1000)
        return score(self, trajectories)

    VerifierScorer.score = stuck


def test_sigterm_while_a_batch_is_awaited_that_may_never_come_saves_at_once_and_nothing_is_lost(start):
    settings = ["run.steps=6", "run.deterministic=true", "deadlines.drain_s=1"]
    broken = start("broken", *settings, fault=never_score)
    broken.wait_until(lambda: last_step(broken.folder) >= 3)
    time.sleep(0.5)  # the prompts of the fourth step are admitted
    broken.terminate()
    broken.end(Preempted.exit_code)
    assert last_step(broken.folder) == 3
    start("broken", resume=True).end()
    straight = start("straight", *settings)
    straight.end()
    assert same(policy(straight.folder), policy(broken.folder))
    assert [r["learner/loss"] for r in rows(straight.folder)] == [r["learner/loss"] for r in rows(broken.folder)]


def test_sigterm_to_the_whole_process_group_leaves_ray_alive_until_the_run_has_saved(nano, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "rayrl", "train", "arithmetic_grpo", f"model.path={nano}", f"run.dir={folder}", *SMALL]
    process = subprocess.Popen([*command, "run.steps=100000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        limit = time.monotonic() + 240
        while last_step(folder) < 2:
            assert process.poll() is None and time.monotonic() < limit, process.communicate()[0].decode()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=120)[0].decode()
        assert process.returncode == Preempted.exit_code, said
        assert commits(folder)[-1].name == f"step-{last_step(folder):06d}" and not (folder / "crash.json").exists()
    finally:
        process.kill()
