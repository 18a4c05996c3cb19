"""A death while the run recovers from another: nothing that was owed is forgotten."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from rayrl import driver, recovery
from rayrl.errors import BufferLost, RanksLost

PLACE = Path("checkpoints/step-000010")
SAVED = {"step": 10, "version": 10, "buffer": {"trained": "up to step 10"}}


@pytest.fixture
def run(monkeypatch):
    """A run at step 14, version 14, with stand-ins for all its roles."""
    monkeypatch.setattr(recovery.checkpoint, "latest", lambda folder, say: PLACE)
    monkeypatch.setattr(recovery.checkpoint, "read_state", lambda place: SAVED)
    monkeypatch.setattr(recovery.journal, "replay", lambda path: {"live": []})
    monkeypatch.setattr(recovery, "pending_ordinals", lambda snapshot: [])
    monkeypatch.setattr(recovery, "next_ordinal", lambda snapshot: 56)
    buffer = MagicMock()
    buffer.trained_since.return_value = [40, 41]
    return SimpleNamespace(
        step=14, version=14, recoveries=0, owed=None, asynchronous=True, unfilled=False, has_commit=True, under_way=[],
        config=MagicMock(), folder=MagicMock(), settle_commit=MagicMock(), anew=MagicMock(), work=MagicMock(), reconnect=MagicMock(),
        tasks_of=lambda ordinals: [f"task {o}" for o in ordinals], recorder=MagicMock(),
        roles=SimpleNamespace(buffer=buffer, learner=MagicMock(handles=[0, 1]), rollout=MagicMock()),
    )  # fmt: skip


@pytest.mark.parametrize("call", ["trained_since", "rewind"])
def test_what_a_new_learner_has_not_learned_is_trained_again_although_the_buffer_dies_at_that_moment(run, call):
    buffer = run.roles.buffer
    getattr(buffer, call).side_effect = BufferLost("buffer died")
    with pytest.raises(BufferLost) as lost:
        recovery.recover(run, RanksLost("learner died"))
    getattr(buffer, call).side_effect = None
    buffer.rewind.reset_mock()
    recovery.recover(run, lost.value)
    buffer.restart.assert_called_once()
    buffer.rewind.assert_called_once_with(["task 40", "task 41"], 15)
    run.reconnect.assert_called_once()
    assert (run.step, run.version, run.owed) == (10, 15, None)
    assert run.roles.learner.restart.call_count == 1


def test_prompts_that_the_dead_buffer_never_admitted_are_handed_out_again(run):
    recovery.recover(run, BufferLost("buffer died while admit ran"))
    run.work.seek.assert_called_once_with(56)


def test_a_buffer_that_dies_later_rewinds_nothing(run):
    recovery.recover(run, RanksLost("learner died"))
    run.roles.buffer.rewind.reset_mock()
    recovery.recover(run, BufferLost("buffer died"))
    run.roles.buffer.rewind.assert_not_called()


def test_a_death_that_there_is_no_way_on_from_ends_the_run(run, monkeypatch):
    run.has_commit, death = False, RanksLost("learner died")
    monkeypatch.setattr(driver, "loop", MagicMock(side_effect=death))
    with pytest.raises(RanksLost) as caught:
        driver._loop_until_done(run)
    assert caught.value is death


def test_deaths_without_a_step_between_them_end_the_run_after_a_few(run, monkeypatch):
    deaths = [RanksLost(f"death {i}") for i in range(9)]
    monkeypatch.setattr(driver, "loop", MagicMock(side_effect=deaths))
    with pytest.raises(RanksLost, match="death 3"):
        driver._loop_until_done(run)
