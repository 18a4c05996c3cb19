"""kill -9 of runs whose rewards are learned, and of environment agents: what holds of a plain run holds of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_killed_driver import kill_at_random_moments
from what_is_left import AGENT, commits, last_step, policy, rows, same, state, trained_samples

from tests.standin.process import standin

CONCURRENCY, KILLS = 4, 3


def annotations(file: Path) -> dict[str, tuple]:
    """Every question that is final, by key."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT key, id, label, attempts, time_s FROM annotations").fetchall()
    assert len({row[0] for row in found}) == len(found)
    return {row[0]: row for row in found}


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
def test_a_run_with_a_reward_model_and_a_judge_annotates_nothing_twice_and_trains_every_ordinal_once(start, seed):
    learned = [
        "run.steps=16",
        "checkpoint.every=2",
        "checkpoint.keep=100",
        "buffer.max_staleness=1",
        "reward_models.online.network=char_cnn",
        "reward_models.online.min_labels=4",
        "reward_models.online.updates_per_arrival=1",
        "evaluation.component=correct",
        f"feedback.concurrency={CONCURRENCY}",
    ]
    with standin() as judge:
        seen: list[dict] = []

        def begin(name, *overrides, resume=False):
            child = start(
                name, *overrides, *([] if resume else [f"feedback.base_url={judge.url}"]), recipe="feedback_online_rm", resume=resume
            )
            if resume and (child.folder / "feedback.sqlite").exists():
                seen.append(annotations(child.folder / "feedback.sqlite"))
            return child

        folder = kill_at_random_moments(begin, "run", seed, *learned, kills=KILLS)
        asked = judge.stats()
    final = annotations(folder / "feedback.sqlite")
    assert any(seen) and all(final[key] == row for before in seen for key, row in before.items())  # what was answered is not asked again
    assert asked["again"] <= 2 * KILLS * CONCURRENCY  # in both orders: what was out when the driver was killed
    found = trained_samples(folder)
    assert len(set(found)) == len({ordinal for ordinal, _ in found})  # each in one step only
    ledger = state(commits(folder)[-1])["buffer"]
    assert {o for start, end in ledger["trained"] for o in range(start, end)} == {ordinal for ordinal, _ in found}
    assert [row["step"] for row in rows(folder)] == list(range(1, 17))
    assert all(row["batch/staleness_max_versions"] <= 1 for row in rows(folder))
    saved = commits(folder)[-1]
    assert set(annotations(saved / "labels.sqlite")) <= set(final) and (saved / "reward_models").is_dir()


def test_a_label_file_that_is_lost_is_taken_from_the_commit(start):
    with standin() as judge:
        settings = [f"feedback.base_url={judge.url}", "run.steps=4", "checkpoint.every=2", "reward_models.online.network=char_cnn",
                    "reward_models.online.min_labels=4", "evaluation.component=correct"]  # fmt: skip
        run = start("run", *settings, recipe="feedback_online_rm")
        run.end()
        before = annotations(run.folder / "feedback.sqlite")
        (run.folder / "feedback.sqlite").write_bytes(b"not a database")
        again = start("run", "run.steps=6", resume=True)
        assert "feedback.sqlite is broken: going on with the labels of step-000004" in again.end()
    after = annotations(run.folder / "feedback.sqlite")
    kept = annotations(commits(run.folder)[0] / "labels.sqlite")
    assert kept and kept.items() <= before.items() and kept.items() <= after.items()


@pytest.fixture
def begin(start):
    """Starts and continues runs of a small environment agent."""
    small = [
        *("telemetry.wandb=off", "telemetry.report=false", "evaluation.enabled=false"),
        *("agent.workers=1", "agent.envs_per_worker=4", "agent.fragment_length=8"),
        *("agent.env_args={length: 2, max_steps: 12}", "agent.intrinsic={kind: count, coef: 0.1}"),
    ]
    return lambda name, *overrides, resume=False: start(name, *overrides, recipe=AGENT, settings=small, resume=resume)


def test_an_environment_agent_trains_every_ticket_once(begin):
    folder = kill_at_random_moments(begin, "run", 5, "run.steps=30", "checkpoint.every=2", "checkpoint.keep=100")
    found = rows(folder)
    assert [row["step"] for row in found] == list(range(1, 31)) and last_step(folder) == 30
    assert [row["agent/frames"] for row in found] == [step * 2 * 4 * 8 for step in range(1, 31)]
    assert all(row["batch/staleness_max_versions"] <= 2 for row in found)
    ledger = state(commits(folder)[-1])["buffer"]
    assert ledger["trained"] and sum(end - start for start, end in ledger["trained"]) == 60 and not ledger["dropped"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_a_synchronous_agent_is_bit_for_bit_the_one_that_was_never_killed(begin, seed):
    """Its episodes last longer than a fragment, and than the steps between two commits: they go on where they were."""
    exact = ["run.steps=24", "run.deterministic=true", "buffer.max_staleness=0", "checkpoint.every=2", "agent.workers=2",
             "agent.env_args={length: 6, max_steps: 45}"]  # fmt: skip
    broken = kill_at_random_moments(begin, "broken", seed, *exact)
    straight = begin("straight", *exact)
    straight.end()
    assert same(policy(straight.folder), policy(broken))
    told = ("step", "learner/loss", "learner/grad_norm", "episode/length", "episode/return")
    assert [[row.get(key) for key in told] for row in rows(straight.folder)] == [[row.get(key) for key in told] for row in rows(broken)]
