"""What is wrong with the feedback of a run is said before it starts, all of it at once."""

import pytest

from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.feedback import preflight


def config(**changes) -> Config:
    made = Config()
    made.feedback.judge = "http"
    for name, value in changes.items():
        setattr(made.feedback, name, value)
    return made


def test_every_problem_is_told_at_once(tmp_path):
    broken = tmp_path / "mine.yaml"
    broken.write_text("kind: score\nuser: '{text} {txt}'\n")
    made = config(template=str(broken), api_key_env="RAYRL_NO_SUCH_KEY")
    made.feedback.budget.tokens = 10
    found = preflight.problems(made)
    assert len(found) == 3
    for words in ("unknown variable {txt}", "feedback.budget.tokens 10 does not hold one answer", "RAYRL_NO_SUCH_KEY, which is not set"):
        assert any(words in line for line in found), words
    with pytest.raises(ConfigError, match=r"(?s)txt.*budget.*RAYRL_NO_SUCH_KEY"):
        preflight.require(made)


def test_a_pair_needs_the_budget_of_two_answers():
    made = config(template="pairwise")
    made.feedback.budget.tokens = made.feedback.sampling.max_tokens
    assert "does not hold one answer" in preflight.problems(made)[0]
    made.feedback.pairs.swap = False
    assert preflight.problems(made) == []


def test_recorded_answers_must_be_there_and_no_judge_has_no_problem(tmp_path):
    assert "there is no file" in preflight.problems(config(judge="replay", replay=str(tmp_path / "none.sqlite")))[0]
    assert preflight.problems(config(judge="none", template="no_such")) == []
