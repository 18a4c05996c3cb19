"""Each verifier against cases worked out by hand, and the rule that a missing ground truth is a failure, not a zero."""

import re
from pathlib import Path

import numpy as np
import pytest

from rayrl.rewards import verifiers
from rayrl.rewards.registry import VERIFIERS
from rayrl.rewards.shaping import length, overlong, random
from rayrl.rewards.verifiers import arithmetic, exact_match, format_regex, listed, multiple_choice, numeric


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("7+8=15,3+4+1=8->85", 1.0),
        ("7+8=15,3+4+1=8->85\n", 1.0),
        ("->84->85", 1.0),
        ("->85->84", 0.0),
        ("85", 0.0),
        ("7+8=15,3+4+1=8->", 0.0),
        ("->8585", 0.0),
        ("->085", 0.0),
        ("->85.", 0.0),
        ("", 0.0),
    ],
)
def test_arithmetic_reads_the_text_after_the_last_arrow(completion, reward):
    assert arithmetic(completion, "85") == reward


@pytest.mark.parametrize(
    ("completion", "truth", "reward"),
    [
        ("so it is 72", "72", 1.0),
        ("72 apples, no: 73", "72", 0.0),
        ("it costs $70,000.", "70000", 1.0),
        ("it costs 70000.00 dollars", "$70,000", 1.0),
        ("1,234,567", "1234567", 1.0),
        ("(1,2)", "2", 1.0),
        ("5-3", "3", 1.0),
        ("5-3", "-3", 0.0),
        ("x = -3", "-3", 1.0),
        ("x = −3", "-3", 1.0),
        ("1.5e3", "1500", 1.0),
        (".5", "0.5", 1.0),
        ("0.1", "0.10000000000000001", 0.0),
        ("none", "3", 0.0),
        ("", "3", 0.0),
        ("9" * 400, "9" * 400, 1.0),
    ],
)
def test_numeric_compares_the_last_number(completion, truth, reward):
    assert numeric(completion, truth) == reward


def test_numeric_reads_the_first_number_after_the_last_marker():
    assert numeric("#### 3 then #### 72 (of 100)", "72", marker="####") == 1.0
    assert numeric("72", "72", marker="####") == 0.0
    assert numeric("####", "72", marker="####") == 0.0


def test_numeric_tolerance_is_relative_to_the_ground_truth():
    assert numeric("1001", "1000", tolerance=1e-3) == 1.0
    assert numeric("1002", "1000", tolerance=1e-3) == 0.0
    assert numeric("0.0005", "0", tolerance=1e-3) == 1.0
    assert numeric("1e999", "1", tolerance=1e-3) == 0.0


def test_numeric_agrees_with_python_on_numbers_written_in_every_way():
    rng = np.random.default_rng(0)
    for _ in range(500):
        value = int(rng.integers(-(10**9), 10**9)) / 10 ** int(rng.integers(0, 4))
        for text in (f"{value}", f"{value:,}", f"{value:.6f}", f"the answer is {value:,.3f}!", f"{value:.12e}"):
            assert numeric(text, repr(value)) == 1.0, text
            assert numeric(text, repr(value + 1)) == 0.0, text


def test_numeric_refuses_a_ground_truth_that_is_not_one_number():
    for truth in ("many", "3 or 4", ""):
        with pytest.raises(ValueError, match="not one number"):
            numeric("3", truth)


@pytest.mark.parametrize(
    ("completion", "options", "reward"),
    [
        (" Paris\n", {}, 1.0),
        ("paris", {}, 0.0),
        ("paris", {"ignore_case": True}, 1.0),
        ("Paris.", {}, 0.0),
        ("Paris.", {"ignore_punctuation": True}, 1.0),
        ("Well: Paris", {"marker": "Well:"}, 1.0),
        ("Paris", {"marker": "Well:"}, 0.0),
    ],
)
def test_exact_match_normalises_only_as_told(completion, options, reward):
    assert exact_match(completion, "Paris", **options) == reward


def test_exact_match_can_ignore_inner_space():
    assert exact_match("a \n b", "a b", ignore_space=True) == 1.0
    assert exact_match("a \n b", "a b") == 0.0


@pytest.mark.parametrize(
    ("completion", "choice"),
    [
        ("The answer is B.", "B"),
        ("The answer is (B)", "B"),
        ("Answer: B", "B"),
        ("**Answer:** (B)", "B"),
        ("A is wrong. The answer is D, no, the answer is B", "B"),
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("Both (A) and (C) fail, so (B)", "B"),
        ("Consider A cat.\nB", "B"),
        ("b", None),
        ("A cat has four legs", None),
        ("The answer is Bravo", None),
        ("", None),
    ],
)
def test_multiple_choice_finds_the_chosen_letter(completion, choice):
    assert [letter for letter in "ABCD" if multiple_choice(completion, letter) == 1.0] == ([choice] if choice else [])


def test_multiple_choice_understands_other_options_and_forms_of_the_truth():
    assert multiple_choice("the answer is J", "(J)", options="ABCDEFGHIJ") == 1.0
    with pytest.raises(ValueError, match="not one of"):
        multiple_choice("E", "E")


def test_format_regex_searches_or_matches_everything():
    pattern = r"<think>.*</think>\s*<answer>.+</answer>"
    good = "<think>a\nb</think>\n<answer>4</answer>"
    assert format_regex(good, None, pattern=pattern) == format_regex(good, None, pattern=pattern, full=True) == 1.0
    assert format_regex("x" + good, None, pattern=pattern) == 1.0
    assert format_regex("x" + good, None, pattern=pattern, full=True) == 0.0
    assert format_regex("4", None, pattern=pattern) == 0.0


@pytest.mark.parametrize("verifier", [arithmetic, numeric, exact_match, multiple_choice])
def test_a_missing_ground_truth_is_a_failure_not_a_wrong_answer(verifier):
    with pytest.raises(ValueError, match="needs a ground truth"):
        verifier("->4", None)


def test_overlong_is_daposs_piecewise_linear_punishment():
    limit, cache = 100, 20
    for n in range(0, 130):
        expected = 0.0 if n <= limit - cache else ((limit - cache) - n) / cache if n <= limit else -1.0
        assert overlong("", None, num_tokens=n, max_tokens=limit, buffer_tokens=cache) == pytest.approx(expected)
    assert overlong("", None, num_tokens=101, max_tokens=limit, buffer_tokens=cache, penalty=0.5) == -0.5


def test_length_punishes_the_distance_to_the_target():
    assert [length("", None, num_tokens=n, target=10) for n in (5, 10, 15)] == [-0.5, 0.0, -0.5]
    assert [length("", None, num_tokens=n, target=10, penalty=2.0, only_longer=True) for n in (5, 10, 15)] == [0.0, 0.0, -1.0]


def test_random_rewards_have_the_asked_mean_and_ignore_the_completion():
    for p in (0.1, 0.5, 0.9):
        draws = [random("x", "y", trajectory_id=f"{i // 8}/{i % 8}", p=p) for i in range(8000)]
        assert set(draws) == {0.0, 1.0}
        assert abs(np.mean(draws) - p) < 4 * np.sqrt(p * (1 - p) / 8000)
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05
    assert random("right", "right", trajectory_id="3/1") == random("wrong", "right", trajectory_id="3/1")
    first, other = ([random("", None, trajectory_id=f"{i}/0", seed=seed) for i in range(64)] for seed in (0, 1))
    assert first != other
    assert {random("", None, trajectory_id=f"{i}/0", p=0.0) for i in range(64)} == {0.0}
    assert {random("", None, trajectory_id=f"{i}/0", p=1.0) for i in range(64)} == {1.0}


@pytest.mark.parametrize(
    ("completion", "truth", "reward"),
    [
        ("so \\boxed{\\frac{1}{2}}", "0.5", 1.0),
        ("so $\\frac{2}{4}$", "\\frac{1}{2}", 1.0),
        ("$x = 3$", "3", 1.0),
        ("\\boxed{x^2+1}", "$1+x^2$", 1.0),
        ("\\boxed{(1,2)}", "(1,2)", 1.0),
        ("\\boxed{1}", "2", 0.0),
        ("no idea", "2", 0.0),
        ("it is 1,000", "1000", 1.0),
    ],
)
def test_math_compares_mathematically(completion, truth, reward):
    math = pytest.importorskip("rayrl.rewards.math_equivalence", exc_type=ImportError).math
    assert math(completion, truth) == reward


def test_math_needs_a_ground_truth():
    math = pytest.importorskip("rayrl.rewards.math_equivalence", exc_type=ImportError).math
    with pytest.raises(ValueError, match="needs a ground truth"):
        math("3", None)


@pytest.mark.parametrize(("completion", "right"), [("b12", 1.0), (" a7\n", 1.0), ("b1", 0.0), ("b12\na7", 0.0), ("", 0.0)])
def test_any_line_of_the_truth_is_right_and_only_a_whole_one(completion, right):
    assert listed(completion, "a7\n b12 ") == right


def test_every_registered_verifier_is_called_by_a_unit_test():
    calls = "".join(file.read_text() for file in Path(__file__).parents[1].rglob("test_*.py"))
    functions = {name: target.partition(":")[2] for name, target in VERIFIERS.items()}
    assert [name for name, function in functions.items() if not re.search(rf"\b{function}\(", calls)] == []


@pytest.mark.parametrize(
    ("text", "large", "small"),
    [("5+7=12->12", 1, 1), ("->22", 2, 0), ("->2", 0, 2), ("12", 0, 0), ("-> 12 ", 1, 1), ("->12x", 0, 0)],
)
def test_a_flattered_judge_overrates_errors_to_its_taste(text, large, small):
    assert verifiers.flattered(text, "12") == large and verifiers.flattered(text, "12", taste="small") == small


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("6+7=13,9+2+1=12->123", [1.0, 1.0]),
        ("6+7=13,9+2+0=12->123", [1.0, 0.0]),
        ("6+7=13,nothing,", [1.0, 0.0]),
        ("", []),
        ("1+1=2,1+1=2,1+1=2", [1.0, 1.0, 1.0]),
        ("1+1=3 1+1=2", [0.0]),
        ("1+1=23", [0.0]),
    ],
)
def test_steps_of_a_sum_are_right_where_their_equations_hold(text, steps):
    assert verifiers.arithmetic_steps(text, None) == steps
    assert verifiers.true_equations(text, None, each=0.5) == 0.5 * sum(steps)
    assert verifiers.true_equations(text, None, each=1.0, most=1) == min(sum(steps), 1)
