"""kill -9 of the driver at any moment, then `rayrl resume`: nothing is trained twice, nothing is skipped, nothing generated is lost.

pytest tests/resume        # with the slow ones: 23 runs, killed 69 times at random moments
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from what_is_left import commits, last_step, policy, rows, same, state, trained_samples, trajectories

from rayrl.buffer.held import read
from rayrl.buffer.ranges import RangeSet
from rayrl.data.arrow import decode

STEPS, GROUPS = 24, 4


def kill_at_random_moments(start, name: str, seed: int, *settings: str, kills: int = 3) -> Path:
    """Runs ``name`` to its end, killed ``kills`` times on the way: while it starts, trains, or writes a commit."""
    rng = random.Random(seed)
    child = start(name, *settings)
    child.wait_until((child.folder / "config.yaml").exists)  # before that there is no run
    for _ in range(kills):
        goal, pause = last_step(child.folder) + rng.choice([0, 1, 3, 5]), rng.uniform(0.0, 0.2)
        child.wait_until(lambda child=child, goal=goal: last_step(child.folder) >= goal)
        time.sleep(pause)
        child.kill()
        child = start(name, resume=True)
    child.end()
    return child.folder


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
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


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_an_asynchronous_run_trains_every_ordinal_once_and_keeps_its_staleness_bound(start, seed):
    settings = [f"run.steps={STEPS}", "buffer.max_staleness=2", "checkpoint.every=2", "checkpoint.keep=100"]
    folder = kill_at_random_moments(start, "run", seed, *settings)
    found = trained_samples(folder)
    assert len(set(found)) == len({ordinal for ordinal, _ in found}) == STEPS * GROUPS  # each in one step only
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


def disk_full_for_a_while() -> None:
    """The learner cannot write its state the second and the third time."""
    import errno

    from rayrl.learner import snapshot

    write, times = snapshot.write_part, iter(range(1, 1000))

    def full(*args, **kwargs):
        if next(times) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **kwargs)

    snapshot.write_part = full


def test_a_disk_that_is_full_for_a_while_is_said_and_costs_neither_the_run_nor_an_older_commit(start):
    run = start("run", "run.steps=40", "checkpoint.every=2", "checkpoint.keep=100", fault=disk_full_for_a_while)
    said = run.end()
    assert said.count("could not be saved, the commits before it are good") == 2 and "No space left" in said
    assert len(commits(run.folder)) >= 2 and commits(run.folder)[-1].name == "step-000040"
    assert max(row.get("checkpoint/failed_count", 0) for row in rows(run.folder)) == 2
    assert not list((run.folder / "checkpoints").glob("*.part"))


def test_a_damaged_commit_is_passed_over_and_the_run_goes_on_from_the_one_before(start):
    settings = ["run.deterministic=true", "checkpoint.every=2", "checkpoint.keep=100"]
    broken = start("broken", "run.steps=6", *settings)
    broken.end()
    newest = commits(broken.folder)[-1]
    weights = next(newest.glob("learner/policy-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    again = start("broken", "run.steps=8", resume=True)
    assert f"passed over {newest.name}" in again.end()
    straight = start("straight", "run.steps=8", *settings)
    straight.end()
    assert same(policy(straight.folder), policy(broken.folder))
