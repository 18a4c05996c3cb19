"""A malformed answer is never a number: hand-written horrors, and hundreds of generated ones."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrl.annotations import QuestionKind
from rayrl.feedback import templates
from rayrl.feedback.parsers import TAGS, Unreadable, read

SCORE, CLASS, PAIR, RANK, STEPS = (templates.load(n) for n in ("score", "nethack_class", "pairwise", "listwise", "steps"))

GOOD = [
    (SCORE, 1, "Right. <score>7</score>", (0.7,)),
    (SCORE, 1, "<score>0</score>", (0.0,)),
    (SCORE, 1, "<SCORE> 10.0 </SCORE>\n\n", (1.0,)),
    (SCORE, 1, "I can't find a mistake. <score>2.5</score>", (0.25,)),
    (SCORE, 1, "<score>7</score> so, in short: <score>7</score>", (0.7,)),
    (CLASS, 1, "A kill. <label>FOO</label>", (1.0,)),
    (CLASS, 1, "Nothing.\n<label>bar</label>", (0.0,)),
    (CLASS, 1, "FOO would be too much. <label>BAR</label>", (0.0,)),
    (PAIR, 2, "The first adds right. <best>1</best>", (1.0,)),
    (PAIR, 2, "<best> 2 </best>", (0.0,)),
    (PAIR, 2, "<best>Tie</best>", (0.5,)),
    (RANK, 3, "<ranking>2, 3, 1</ranking>", (2.0, 0.0, 1.0)),
    (STEPS, 3, "The last is wrong. <steps>good, good, bad</steps>", (1.0, 1.0, 0.0)),
]

BAD = [
    *[
        (t, n, a, "malformed")
        for t, n in ((SCORE, 1), (CLASS, 1), (PAIR, 2), (RANK, 3), (STEPS, 3))
        for a in ("", "   ", "ok", "7", "FOO", "1")
    ],
    *[
        (SCORE, 1, f"<score>{content}</score>", "malformed")
        for content in (
            *(
                "",
                "seven",
                "7/10",
                "7 of 10",
                "7,5",
                "7.",
                ".5",
                "1e1",
                "0x7",
                "nan",
                "inf",
                "-inf",
                "NaN",
                "-1",
                "10.01",
                "11",
                "1000000000",
            ),
            *("7 or 8", "7-8", "<7", "~7", "7%", "７", "٧", "7\n8", "[7]", "NUMBER", "None", "null", "true", "+", "--7", "7 7", "½", "VII"),
        )
    ],
    (SCORE, 1, "<score>7", "malformed"),
    (SCORE, 1, "7</score>", "malformed"),
    (SCORE, 1, "<score>7<score>", "malformed"),
    (SCORE, 1, "<score><b>7</b></score>", "malformed"),
    (SCORE, 1, "<score>7</score> or maybe not", "malformed"),
    (SCORE, 1, "<score>7</score>.", "malformed"),
    (SCORE, 1, "<score>7</score> <score>", "malformed"),
    (SCORE, 1, "<label>FOO</label>", "malformed"),
    (SCORE, 1, '{"score": 7}', "malformed"),
    (SCORE, 1, "&lt;score&gt;7&lt;/score&gt;", "malformed"),
    (SCORE, 1, "<score>7</score> no: <score>8</score>", "contradictory"),
    (CLASS, 1, "<label>FOO</label><label>BAR</label>", "contradictory"),
    (CLASS, 1, "like <label>CLASS</label> ... <label>FOO</label>", "contradictory"),
    *[
        (CLASS, 1, f"<label>{c}</label>", "malformed")
        for c in ("", "CLASS", "FOOBAR", "FOO BAR", "FOO or BAR", "F00", "FO", "helpful", "1", "yes", "not FOO", "FOO.", "'FOO'", "BA R")
    ],
    *[
        (PAIR, 2, f"<best>{c}</best>", "malformed")
        for c in (
            "",
            "0",
            "3",
            "12",
            "1 or 2",
            "1, 2",
            "first",
            "A",
            "both",
            "neither",
            "none",
            "1.0",
            "-1",
            "Response 1",
            "1 or 2 or tie",
            "equal",
        )
    ],
    (PAIR, 2, "<best>1</best> <best>2</best>", "contradictory"),
    (PAIR, 2, "<best>1</best> <best>tie</best>", "contradictory"),
    *[
        (RANK, 3, f"<ranking>{c}</ranking>", "malformed")
        for c in (
            "",
            "1",
            "1,2",
            "1,2,3,4",
            "0,1,2",
            "1 2 3",
            "a,b,c",
            "1,2,",
            ",1,2,3",
            "1;2;3",
            "3.0,2,1",
            "1,2,4",
            "-1,2,3",
            "1<2<3",
            "1>2>3",
            "NUMBER, NUMBER",
        )
    ],
    *[(RANK, 3, f"<ranking>{c}</ranking>", "contradictory") for c in ("1,1,2", "1,1,1", "3,3,3,3")],
    *[
        (STEPS, 3, f"<steps>{c}</steps>", "malformed")
        for c in (
            "",
            "good",
            "good, bad",
            "good, bad, good, bad",
            "good good bad",
            "good, bad, fair",
            "1, 0, 1",
            "good, bad,",
            "WORD, WORD, WORD",
        )
    ],
    *[
        (template, 1, text, "refused")
        for template in (SCORE, CLASS)
        for text in (
            *("I'm sorry, but I can't help with that.", "I cannot judge this.", "As an AI, I do not grade people.", "I must decline."),
            *(
                "I apologize, but this is not something that I do.",
                "I won't rate this.",
                "I am unable to rate this.",
                "We are not able to assist.",
            ),
        )
    ],
    (SCORE, 1, "x" * 9000 + "<score>7</score>", "overlong"),
]


@pytest.mark.parametrize(("template", "count", "answer", "values"), GOOD)
def test_a_proper_answer_is_read(template, count, answer, values):
    assert read(answer, template, count) == pytest.approx(values)


@pytest.mark.parametrize(("template", "count", "answer", "kind"), BAD)
def test_an_improper_answer_has_no_label(template, count, answer, kind):
    with pytest.raises(Unreadable) as caught:
        read(answer, template, count)
    assert caught.value.kind == kind


@pytest.mark.parametrize(("template", "count", "answer", "values"), GOOD)
def test_an_answer_that_was_cut_off_has_no_label_even_if_it_looks_whole(template, count, answer, values):
    with pytest.raises(Unreadable, match="overlong"):
        read(answer, template, count, cut_off=True)


@pytest.mark.parametrize("seed", range(400))
def test_a_damaged_answer_has_no_label_or_the_same(seed):
    """One to three edits inside a proper answer's tag: what still reads must read as what is written there."""
    rng = random.Random(seed)
    template, count, answer, values = GOOD[seed % len(GOOD)]
    tag = TAGS[template.kind]
    start = answer.lower().rindex(f"<{tag}>")
    text = list(answer)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(start, len(text))
        kind = rng.choice(("delete", "insert", "replace"))
        new = rng.choice(string.ascii_letters + "<>/,. \n")
        text[place : place + (kind != "insert")] = [] if kind == "delete" else [new]
    try:
        found = read("".join(text), template, count)
    except Unreadable:
        return
    if template.kind in (QuestionKind.CLASS, QuestionKind.STEPS, QuestionKind.PAIR):
        assert found == values, "no single letter turns one word into the other"
    assert all(0.0 <= value <= max(1, count - 1) for value in found) and len(found) == len(values)


@given(st.text(max_size=300), st.sampled_from(list(zip((SCORE, CLASS, PAIR, RANK, STEPS), (1, 1, 2, 3, 3), strict=True))))
def test_any_text_is_read_or_refused_and_nothing_else(answer, template_and_count):
    template, count = template_and_count
    try:
        values = read(answer, template, count)
    except Unreadable:
        return
    assert f"</{TAGS[template.kind]}>" in answer.lower() and all(0.0 <= v <= max(1, count - 1) for v in values)
