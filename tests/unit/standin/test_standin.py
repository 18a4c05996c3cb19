"""The stand-in is honest: it sees text alone, its rules are frozen and name no success, its rates are what it was told."""

import ast
import asyncio
import functools
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from rayrl.annotations import Question
from rayrl.feedback import templates
from rayrl.feedback.parsers import TAGS, Unreadable, read
from tests import standin as package
from tests.standin import arithmetic, rules
from tests.standin.opinions import Opinions
from tests.standin.prose import FAULTS, write
from tests.standin.reading import read_prompt
from tests.standin.server import Settings, StandIn

FILES = sorted(Path(next(iter(package.__path__))).glob("*.py"))
RULES = "811199988b0302b1"
KILL, GOLD_MESSAGE, STAIRS_MESSAGE, DULL = (
    "You kill the newt!",
    "$ - 12 gold pieces.",
    "There is a staircase down here.",
    "This door is locked.",
)


load = functools.cache(templates.load)


def ask(template, question, goal="default", opinions=None):
    """The values of an honest answer to a real prompt, read by the real parser."""
    t = load(template)
    reading = read_prompt("\n".join(m["content"] for m in t.messages(question, t.goal_sentence(goal))))
    text, cut = write(reading.tag, (opinions or Opinions()).answer(reading), random.Random(0))
    return read(text, t, len(question.texts), cut)


def imports_of(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_it_imports_nothing_of_the_system_that_it_judges():
    assert len(FILES) > 5
    for path in FILES:
        names = [name for node in ast.walk(ast.parse(path.read_text())) for name in imports_of(node)]
        assert all(name.split(".")[0] in {"aiohttp", "tests", *sys.stdlib_module_names} for name in names), path.name
        assert all(name.startswith("tests.standin") for name in names if name.split(".")[0] == "tests"), path.name


def test_its_rules_are_frozen():
    assert rules.digest == RULES, "changed rules make measurements with the old ones incomparable: say so where they are quoted"


@pytest.mark.parametrize("message", ["You descend the stairs.", "Sunlight!", "You see the Oracle.", ""])
def test_no_rule_rewards_the_message_of_a_success(message):
    assert not any(rules.is_good(message, goal) for goal in rules.GOALS)


@pytest.mark.parametrize(
    ("goal", "good", "bad"),
    [
        ("combat", (KILL,), (GOLD_MESSAGE, STAIRS_MESSAGE, DULL, "")),
        ("gold", (GOLD_MESSAGE,), (KILL, STAIRS_MESSAGE, DULL, "")),
        ("stairs", (STAIRS_MESSAGE,), (KILL, GOLD_MESSAGE, DULL, "")),
        ("default", (KILL, GOLD_MESSAGE, STAIRS_MESSAGE), (DULL, "")),
        ("zeroknowledge", (KILL, GOLD_MESSAGE, STAIRS_MESSAGE), (DULL, "")),
    ],
)
def test_the_goal_in_the_prompt_decides(goal, good, bad):
    for text in (*good, *bad):
        assert ask("nethack_class", Question((text,)), goal) == (float(text in good),)
        assert (ask("nethack_score", Question((text,)), goal)[0] >= 0.5) == (text in good)
    assert ask("nethack_pair", Question((good[0], bad[-1])), goal) == (1.0,)
    assert ask("nethack_pair", Question((bad[-1], good[0])), goal) == (0.0,)
    assert ask("nethack_pair", Question((bad[0], bad[-1])), goal) == (0.5,)


def test_progress_in_a_world_of_messages_is_what_it_unlocks():
    onward, rumour = "You unlock the oak door and go deeper, into the pantry.", "You hear: the cook sings of cheese far below."
    assert ask("message_class", Question((onward,))) == (1.0,) and ask("message_class", Question((rumour,))) == (0.0,)
    assert ask("message_pair", Question((rumour, onward))) == (0.0,)


def test_arithmetic_is_graded_from_the_text():
    right, near, wrong, none = "85", "So 84", "3", "no idea"
    grades = [ask("score", Question((text,), "37+48="))[0] for text in (right, near, wrong, none)]
    assert grades == sorted(grades, reverse=True) and grades[0] == 1.0 and grades[-1] == 0.0
    assert ask("class", Question((right,), "37+48=")) == (1.0,) and ask("class", Question((near,), "37+48=")) == (0.0,)
    assert ask("pairwise", Question((wrong, right), "37+48=")) == (0.0,)
    assert ask("listwise", Question((wrong, right, none), "37+48=")) == (1.0, 0.0, 2.0)
    assert ask("steps", Question(("7+8=15, write 5", "3+4=8", "done"), "37+48=")) == (1.0, 0.0, 1.0)
    assert arithmetic.grade("12*3=", "12*3=36") == 10.0 and arithmetic.grade("9-12=", "-3") == 10.0


CONTENTS = {"score": "7", "nethack_class": "FOO", "pairwise": "1", "listwise": "2, 1", "steps": "good, bad"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("template", CONTENTS)
def test_every_spoiled_answer_is_refused_by_the_parser_for_the_right_reason(template, fault):
    t, reasons = templates.load(template), Counter()
    for seed in range(100):
        text, cut = write(TAGS[t.kind], CONTENTS[template], random.Random(seed), fault)
        with pytest.raises(Unreadable) as caught:
            read(text, t, 1 if template in ("score", "nethack_class") else 2, cut)
        reasons[caught.value.kind] += 1
    assert set(reasons) == {"refused" if fault == "refusing" else fault}


def test_faults_come_at_their_rates():
    stand_in, rates = StandIn(Settings(rates={"malformed": 0.2, "error": 0.1, "late": 0.05})), Counter()
    for seed in range(20_000):
        rates[stand_in._fault(random.Random(seed))] += 1
    assert [rates[fault] / 20_000 for fault in ("malformed", "error", "late", "")] == pytest.approx([0.2, 0.1, 0.05, 0.65], abs=0.012)


def labels(opinions, count=1600):
    """What it says of texts of which every fourth is good, and what is true."""
    texts = [f"You kill monster {i}." if i % 4 == 0 else f"You see here item {i}." for i in range(count)]
    return [ask("nethack_class", Question((t,)), opinions=opinions)[0] for t in texts], [float(i % 4 == 0) for i in range(count)]


def test_wrong_opinions_come_at_their_rate_and_stay():
    given, true = labels(opinions := Opinions(wrong=0.1), 1000)
    assert abs(sum(g != t for g, t in zip(given, true, strict=True)) / 1000 - 0.1) < 0.03
    assert labels(opinions, 1000)[0] == given


@pytest.mark.parametrize(("control", "expected"), [("zero", 0.0), ("one", 1.0)])
def test_constant_controls_are_constant(control, expected):
    assert set(labels(Opinions(control), 100)[0]) == {expected}


@pytest.mark.parametrize("control", ["random", "permuted"])
def test_a_control_keeps_the_positive_rate_and_loses_the_meaning(control):
    given, true = labels(opinions := Opinions(control, seed=3))
    assert abs(sum(given) / len(given) - 0.25) < 0.04
    late = list(zip(given, true, strict=True))[200:]  # the first ones have few others to draw from
    assert sum(g == t for g, t in late) / len(late) < 0.7, "chance agrees in 0.625 of all"
    assert ask("nethack_class", Question(("You kill monster 0.",)), opinions=opinions)[0] == given[0], "the same text, the same label"


def test_what_it_answers_depends_on_the_prompt_alone():
    """Two servers with one seed, asked in another order, say the same."""
    t = templates.load("nethack_class")

    async def answers(order):
        from aiohttp.test_utils import TestClient, TestServer

        async with TestClient(TestServer(StandIn(Settings(rates={"malformed": 0.3}, wrong=0.2)).app())) as client:
            found = {}
            for i in order:
                body = {"model": "judge", "messages": t.messages(Question((f"You kill monster {i}.",)), t.goal_sentence("combat"))}
                response = await (await client.post("/v1/chat/completions", json=body)).json()
                found[i] = response["choices"][0]["message"]["content"]
            return found

    assert asyncio.run(answers(range(20))) == asyncio.run(answers(reversed(range(20))))


def test_the_command_in_its_text_is_the_one_that_works():
    assert re.search(r"python -m tests\.standin --port \d+", package.__doc__)
