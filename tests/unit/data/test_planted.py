"""The planted task: what a prompt hides, what is held out, and what its verifiers say of a trace."""

from __future__ import annotations

import pytest

from rayrl.data.planted import hidden, planted
from rayrl.errors import ConfigError
from rayrl.rewards import planted as verify


@pytest.mark.parametrize("digits", [1, 3, [2, 8], 9])
def test_training_and_evaluation_problems_are_disjoint_and_unique(digits):
    train, held_out = (planted(split, digits=digits, size=500) for split in ("train", "eval"))
    sides = [{row.prompt for row in rows} for rows in (train, held_out)]
    assert not sides[0] & sides[1] and [len(s) for s in sides] == [len(train), len(held_out)]
    other = {row.prompt for row in planted("train", digits=digits, size=500, seed=7)}
    assert not other & sides[1], "held out whatever the seed"


def test_the_answer_is_what_the_prompt_hides():
    for row in planted("train", digits=[2, 4], size=50):
        assert row.answer == hidden(row.prompt[:-1]) and int(row.prompt[:-1]) + int(row.answer) == 10 ** len(row.answer) - 1


def test_arguments_out_of_range_are_refused():
    for args in ({"digits": 0}, {"digits": []}, {"digits": 10}, {"eval_share": 1.0}, {"size": 0}):
        with pytest.raises(ConfigError):
            planted("train", **args)


def test_a_trace_is_solved_once_it_contains_the_hidden_string_and_earlier_pays_more():
    trace = "615,625,625."
    assert verify.planted(trace, "625") == 1 and verify.planted("615,624.", "625") == 0
    assert verify.planted_return(trace, "625", horizon=16) == 16 - 7 + 1 and verify.planted_return("625.", "625", horizon=16) == 14
    assert verify.planted_return(trace, "625", horizon=6) == 0, "what comes after the horizon does not count"
    assert verify.planted_return("9", "625", horizon=16) == 0
    with pytest.raises(ValueError, match="ground truth"):
        verify.planted(trace, None)


def test_the_process_reward_grows_with_every_attempt():
    assert verify.planted_steps("615,625,9.", "625") == pytest.approx([2 / 3, 1, 0])
    assert verify.planted_steps("", "625") == []
