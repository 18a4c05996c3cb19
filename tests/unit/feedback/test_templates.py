import pytest

from rayrl.annotations import Question, QuestionKind
from rayrl.errors import ConfigError
from rayrl.feedback import templates
from rayrl.feedback.parsers import TAGS

EXAMPLE = {
    QuestionKind.SCORE: Question(("a text {goal}",), "a prompt"),
    QuestionKind.CLASS: Question(("a text {goal}",), "a prompt"),
    QuestionKind.PAIR: Question(("first text", "second text"), "a prompt"),
    QuestionKind.RANKING: Question(("one", "two", "three"), "a prompt"),
    QuestionKind.STEPS: Question(("one", "two"), "a prompt"),
}


@pytest.mark.parametrize("name", templates.names())
def test_every_template_shows_the_texts_the_goal_and_the_form_of_the_answer(name):
    template = templates.load(name)
    for goal in template.goals:
        sentence = template.goal_sentence(goal)
        question = EXAMPLE[template.kind]
        shown = "\n".join(m["content"] for m in template.messages(question, sentence))
        assert all(text in shown for text in question.texts) and sentence in shown
        assert f"<{TAGS[template.kind]}>" in shown and "{text" not in shown


def test_texts_are_never_read_as_variables():
    template = templates.load("score")
    shown = template.messages(Question(("{context} {{x}} {nonsense}",), "PROMPT"), "goal")[1]["content"]
    assert "{context} {{x}} {nonsense}" in shown


def test_all_nethack_templates_have_the_same_goals():
    goals = [templates.load(name).goals for name in ("nethack_class", "nethack_score", "nethack_pair")]
    assert goals[0] == goals[1] == goals[2]
    assert set(goals[0]) == {"default", "combat", "gold", "stairs", "zeroknowledge"}


def test_the_hash_is_of_the_text_alone():
    source = templates.load("score").source
    assert templates.parse(source, "a", "x").hash == templates.parse(source, "b", "y").hash
    assert templates.parse(source + "\n# note", "a", "x").hash != templates.parse(source, "a", "x").hash


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("kind: score\nuser: '{text} {txt}'", "unknown variable {txt}.*did you mean 'text'"),
        ("kind: score\nuser: '{goal}'", "does not show {text}"),
        ("kind: pair\nuser: '{first}'", "does not show {second}"),
        ("kind: scores\nuser: '{text}'", "did you mean 'score'"),
        ("kind: score\nuser: '{text}'\ngaols: {}", "did you mean 'goals'"),
        ("kind: score\nuser: '{text}'\nscale: [5, 5]", "differ"),
        ("kind: score\nuser: '{text}'\nscale: [5, 1]", "does not rise"),
        ("kind: class\nuser: '{text}'", "does not tell both words"),
        ("kind: class\nuser: '{text} A a'\nwords: [A, a]", "differ"),
        ("kind: score", "needs the keys"),
        ("kind: [", "is not YAML"),
        ("just text", "needs the keys"),
    ],
)
def test_a_broken_template_is_refused_with_its_reason(source, expected):
    with pytest.raises(ConfigError, match=f"(?s){expected}"):
        templates.parse(source, "mine", "feedback.template: mine.yaml")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'nethack_class'"):
        templates.load("nethack_clas")
    with pytest.raises(ConfigError, match="did you mean 'combat'"):
        templates.load("nethack_class").goal_sentence("combta")
    assert templates.load("nethack_class").goal_sentence("Find the oracle.") == "Find the oracle."


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("score", Question(("a", "b"))),
        ("pairwise", Question(("a",))),
        ("pairwise", Question(("a", "a"))),
        ("listwise", Question(("a", "b", "a"))),
        ("steps", Question(())),
    ],
)
def test_impossible_questions_are_told(name, question):
    assert templates.load(name).check(question)
