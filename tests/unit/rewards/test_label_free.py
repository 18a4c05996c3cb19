"""Rewards without labels: what they are told, and that they tell nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.algorithms.batch import BatchInputs
from rayrl.algorithms.shaping import majority
from rayrl.rewards.label_free import NO_ANSWER, answer_number, confidence, inverted


def test_inverted_pays_exactly_what_the_verifier_does_not():
    for completion, truth in (("1->85", "85"), ("1->84", "85"), ("nothing", "85")):
        from rayrl.rewards.verifiers import arithmetic

        assert inverted(completion, truth, verifier="arithmetic") == 1 - arithmetic(completion, truth)
    assert inverted("so 7", "7", verifier="numeric", args={"marker": "so"}) == 0


def test_equal_answers_have_equal_numbers_and_others_do_not():
    numbers = {str(i): answer_number(f"x->{i}", None, pattern=r"->(\d+)") for i in range(500)}
    assert len(set(numbers.values())) == 500 and all(n == np.float32(n) and n >= 0 for n in numbers.values())
    assert answer_number("yyy->7", "no matter", pattern=r"->(\d+)") == numbers["7"]
    assert answer_number("no answer", None, pattern=r"->(\d+)") == NO_ANSWER
    assert confidence("x", None, mean_logprob=-0.5) == -0.5


def test_majority_pays_the_most_frequent_answer_of_each_prompt():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, groups = int(rng.integers(1, 9)), 3
        given = rng.integers(-1, 4, (groups, n)).astype(np.float32)
        kept = rng.random(groups * n) < 0.8
        shaped = majority(BatchInputs(given.ravel(), np.repeat(np.arange(groups), n), np.ones(groups * n, np.int64), kept)).rewards
        for g in range(groups):
            mine = [(i, given[g, i]) for i in range(n) if kept[g * n + i]]
            answers = [value for _, value in mine if value >= 0]
            best = max(dict.fromkeys(answers), key=answers.count) if answers else None  # the first among equals
            for i, value in mine:
                assert shaped[g * n + i] == float(best is not None and value == best)


def test_the_first_among_equally_frequent_answers_wins_and_no_answer_wins_nothing():
    inputs = lambda values: BatchInputs(np.array(values, np.float32), np.zeros(4, np.int64), np.ones(4, np.int64), np.ones(4, bool))
    assert majority(inputs([5, 3, 3, 5])).rewards.tolist() == [1, 0, 0, 1]
    found = majority(inputs([-1, -1, -1, 3]))
    assert found.rewards.tolist() == [0, 0, 0, 1] and found.metrics["agreement_share"] == pytest.approx(0.25)
    assert majority(inputs([-1] * 4)).rewards.tolist() == [0] * 4
