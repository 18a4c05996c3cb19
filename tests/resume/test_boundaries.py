"""A run that was ended at any step, also at the end of an epoch and at its last step, trains on when it is continued, and says when it
did not get to its target."""

from __future__ import annotations

import json

import pytest
from what_is_left import last_step, policy, rows, same

from rayrl import driver
from rayrl.errors import TargetNotReached

PROMPTS, STEPS = 8, 6
"""An epoch of two steps of four prompts."""


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i + 11}+{i + 23}=", "answer": str(2 * i + 34)}) + "\n" for i in range(2 * PROMPTS)))
    return [f"data.source={file}", f"data.eval_size={PROMPTS}", "data.chat_template=false", "run.deterministic=true"]


def test_a_run_that_ended_anywhere_is_continued_as_if_it_had_not(start, prompts):
    """In the middle of an epoch, at its end, after the last step of the run: each continues the one before."""
    run = start("broken", "run.steps=1", *prompts)
    run.end()
    for steps in (2, 3, 4, STEPS):
        start("broken", f"run.steps={steps}", resume=True).end()
        assert last_step(run.folder) == steps
    straight = start("straight", f"run.steps={STEPS}", *prompts)
    straight.end()
    assert same(policy(straight.folder), policy(run.folder))
    assert [row["learner/loss"] for row in rows(straight.folder)] == [row["learner/loss"] for row in rows(run.folder)]


def test_a_run_that_ends_before_its_target_is_no_success(monkeypatch, tmp_path):
    from contextlib import nullcontext
    from types import SimpleNamespace

    nothing = lambda *args: None
    ended = {"interrupted": False, "preempted": False, "step": 7, "target": 9, "spent": False, "folder": SimpleNamespace(path=tmp_path)}
    early = SimpleNamespace(**ended, evaluate=nothing, export_policy=nothing)
    monkeypatch.setattr(driver, "_loop_until_done", nothing)
    run = type("Ended", (nullcontext,), vars(early))()
    with pytest.raises(TargetNotReached, match="ended at step 7 of 9"):
        driver._drive(run)
    assert TargetNotReached.exit_code not in (0, 130, 143)
