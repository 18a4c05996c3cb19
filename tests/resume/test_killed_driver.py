"""kill -9 of the driver at any moment, then `rayrl resume`: nothing is trained twice, nothing is skipped, nothing generated is lost."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from conftest import commits, last_step, policy, rows, same, state, trained_samples, trajectories

from rayrl.buffer.held import read
from rayrl.buffer.ranges import RangeSet
from rayrl.data.arrow import decode

STEPS, GROUPS, SAMPLES = 24, 4, 4


def kill_at_random_moments(start, name: str, seed: int, *settings: str, kills: int = 3) -> Path:
    """Runs ``name`` to its end, killed ``kills`` times on the way: while it starts, trains, or writes a commit."""
    rng = random.Random(seed)
    child = start(name, *settings)
    for _ in range(kills):
        goal, pause = last_step(child.folder) + rng.choice([0, 1, 3, 5]), rng.uniform(0.0, 0.2)
        child.wait_until(lambda child=child, goal=goal: last_step(child.folder) >= goal)
        time.sleep(pause)
        child.kill()
        child = start(name, resume=True)
    child.end()
    return child.folder


@pytest.mark.parametrize("seed", range(3))
def test_a_synchronous_run_is_bit_for_bit_the_one_that_was_never_killed(start, seed):
    settings = [f"run.steps={STEPS}", "run.deterministic=true", "checkpoint.every=2"]
    broken = kill_at_random_moments(start, "broken", seed, *settings)
    straight = start("straight", *settings)
    straight.end()
    assert same(policy(straight.folder), policy(broken))
    for a, b in zip(rows(straight.folder), rows(broken), strict=True):
        assert [a[k] for k in ("step", "learner/loss", "learner/grad_norm", "reward/mean")] == [
            b[k] for k in ("step", "learner/loss", "learner/grad_norm", "reward/mean")
        ]
    assert sorted(trained_samples(straight.folder)) == sorted(trained_samples(broken))


@pytest.mark.parametrize("seed", range(6))
def test_an_asynchronous_run_trains_every_ordinal_once_and_keeps_its_staleness_bound(start, seed):
    settings = [f"run.steps={STEPS}", "buffer.max_staleness=2", "checkpoint.every=2", "checkpoint.keep=100"]
    folder = kill_at_random_moments(start, "run", seed, *settings)
    found = trained_samples(folder)
    assert len({ordinal for ordinal, _ in found}) * SAMPLES == len(found) == STEPS * GROUPS * SAMPLES
    assert all(row["batch/staleness_max_versions"] <= 2 for row in rows(folder)) and len(rows(folder)) == STEPS
    ledger = state(commits(folder)[-1])["buffer"]
    assert set(RangeSet(ledger["trained"])) == {ordinal for ordinal, _ in found} and not ledger["dropped"]


def test_what_was_generated_before_a_commit_is_trained_after_it_and_not_generated_again(start):
    run = start("run", "run.steps=100000", "buffer.max_staleness=3", "checkpoint.every=3", "checkpoint.keep=1000")
    run.wait_until(lambda: len(commits(run.folder)) >= 3)
    run.kill()
    newest = commits(run.folder)[-1]
    buffer = state(newest)["buffer"]
    held = {group.info.ordinal: group.info.payload for group in read(newest / "groups.arrows", lambda payload: payload)}
    assert set(held) == set(RangeSet(buffer["live"]["buffered"])) | set(RangeSet(buffer["live"]["leased"])) and held
    start("run", f"run.steps={state(newest)['step'] + 4}", "checkpoint.keep=1000", resume=True).end()
    trained = {t.id: t for t in trajectories(run.folder)}
    for payload in held.values():
        for before in decode(payload):
            after = trained[before.id]
            assert after.token_ids.tolist() == before.token_ids.tolist() and after.version_spans == before.version_spans


def test_a_run_that_is_killed_before_its_first_commit_begins_anew(start):
    settings = ["run.steps=6", "run.deterministic=true", "checkpoint.every=5"]
    broken = start("broken", *settings)
    broken.wait_until(lambda: last_step(broken.folder) >= 1)
    broken.kill()
    if not commits(broken.folder):
        start("broken", resume=True).end()
        straight = start("straight", *settings)
        straight.end()
        assert same(policy(straight.folder), policy(broken.folder))
