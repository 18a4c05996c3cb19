"""The calculator environment computes what Python computes, and nothing but arithmetic ever runs."""

import random

import numpy as np
import pytest

from rayrl.envs.calculator import Calculator, evaluate, shown
from rayrl.envs.registry import TEXT_ENVS, load_env
from rayrl.errors import ConfigError
from rayrl.types import Prompt

IDS = np.zeros(1, np.int32)


def make(**args) -> Calculator:
    return load_env("calculator")(Prompt(0, IDS), **args)


@pytest.mark.parametrize(
    ("turn", "observation"),
    [
        ("CALC(3*4)", " = 12\n"),
        ("First CALC(1+1) then CALC((2+3)*4)", " = 20\n"),
        ("CALC((2+3)*4) and so on", " = 20\n"),
        ("CALC(7/2", " = 3.5\n"),
        ("CALC(1/3)", " = 0.3333333333\n"),
        ("CALC(6/3)", " = 2\n"),
        ("CALC(-7//2)", " = -4\n"),
        ("CALC(1/0)", " = error: division by zero\n"),
        ("CALC(2+)", " = error: not an expression\n"),
        ("CALC()", " = error: not an expression\n"),
    ],
)
def test_a_call_is_answered_with_its_value(turn, observation):
    assert make().observe(turn, IDS) == (observation, False)


@pytest.mark.parametrize("turn", ["so ANSWER 12", "12->12", "CALC(1+1)->2", "I give up", ""])
def test_an_answer_or_a_turn_without_a_call_ends_the_episode(turn):
    assert make().observe(turn, IDS) == (None, True)


def test_the_episode_ends_after_its_turns():
    env = make(max_turns=3)
    assert [env.observe("CALC(1+1)", IDS) for _ in range(3)] == [(" = 2\n", False), (" = 2\n", False), (None, True)]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "x",
        "'a'*10",
        "[1]*9",
        "True",
        "1 if 1 else 2",
        "(lambda: 1)()",
        "9**9**9",
        "2**65",
        "10**18*10",
        "1e300*1e300",
        "1e999",
        "(-8)**0.5",
        "0**-1",
        "1<2",
        "~1",
        "1@2",
        "(" * 150 + "1" + ")" * 150,
        "1+" * 150 + "1",
        "1;2",
        "1\x00",
        "3j",
    ],
)
def test_anything_but_bounded_real_arithmetic_is_refused(expression):
    with pytest.raises(ValueError):
        evaluate(expression)


def test_values_equal_pythons_on_random_expressions():
    rng = random.Random(0)

    def expression(depth: int) -> str:
        if depth == 0:
            return str(rng.choice([rng.randint(0, 99), round(rng.uniform(0, 9), 2)]))
        sign = "-" if rng.random() < 0.2 else ""
        return f"({expression(depth - 1)}{rng.choice(['+', '-', '*', '/', '//', '%'])}{sign}{expression(depth - 1)})"

    checked = 0
    while checked < 300:
        text = expression(rng.randint(1, 4))
        if len(text) > 200:
            continue
        try:
            expected = eval(text)
        except ZeroDivisionError:
            with pytest.raises(ValueError, match="division by zero"):
                evaluate(text)
            continue
        if abs(expected) < 10**15:
            try:
                assert evaluate(text) == expected
            except ValueError as e:
                assert "too large" in str(e)
                continue
            assert float(shown(expected)) == pytest.approx(expected, rel=1e-9)
            checked += 1


def test_every_registered_environment_loads():
    for name in TEXT_ENVS:
        assert hasattr(load_env(name), "observe")


def test_an_environment_of_the_users_own_is_loaded_and_a_wrong_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_env_module.py").write_text("class Echo:\n    def __init__(self, prompt, **args): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_env("own_env_module:Echo").__name__ == "Echo"
    for name, near in (("calculater", "calculator"), ("own_env_module:Ekho", "Echo"), ("own_env_modul:Echo", "own_env_module")):
        with pytest.raises(ConfigError, match=f"did you mean '{near}'") as caught:
            load_env(name)
        assert caught.value.message.startswith("rollout.env")
