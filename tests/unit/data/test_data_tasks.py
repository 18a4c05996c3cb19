"""Generated tasks: what is held out stays held out, and a row depends on (seed, index, split) alone."""

import random

import pytest

from rayrl.config.schema import DataConfig
from rayrl.data.sources import load_rows
from rayrl.data.tasks import arithmetic, permute
from rayrl.errors import ConfigError


@pytest.mark.parametrize("args", [{}, {"digits": 1, "operators": ["+", "-", "*"]}, {"digits": 3, "size": 5000}, {"seed": 7}])
def test_training_and_evaluation_problems_are_disjoint_and_unique(args):
    train, held_out = arithmetic("train", **args), arithmetic("eval", **args)
    questions = [[row.prompt for row in rows] for rows in (train, held_out)]
    assert not set(questions[0]) & set(questions[1])
    for rows, prompts in zip((train, held_out), questions, strict=True):
        assert len(set(prompts)) == len(prompts) == len(rows) > 0


def test_held_out_problems_stay_held_out_when_the_seed_changes():
    train = {row.prompt for row in arithmetic("train", seed=1)}
    assert not train & {row.prompt for row in arithmetic("eval", seed=2)}
    assert len(train | {row.prompt for row in arithmetic("eval")}) == 90 * 90


def test_the_answer_is_that_of_the_printed_problem():
    for operators in (["+"], ["-"], ["*"], ["+", "-", "*"]):
        rows = arithmetic("train", digits=2, operators=operators)
        for i in random.Random(0).sample(range(len(rows)), 200):
            left, right = rows[i].prompt.split("=")
            assert right == "" and str(eval(left)) == rows[i].answer
            assert all(len(operand) == 2 for operand in left.translate(str.maketrans("+-*", "   ")).split())


def test_a_row_depends_on_seed_index_and_split_alone():
    rows = arithmetic("train", seed=3)
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    scattered = {i: rows[i] for i in order}
    assert [scattered[i] for i in range(len(rows))] == list(arithmetic("train", seed=3))
    assert [r.prompt for r in rows[:50]] != [r.prompt for r in arithmetic("train", seed=4)[:50]]
    assert arithmetic("train", seed=3, size=10)[4] == rows[4]


def test_permute_is_a_bijection_for_every_size():
    for size in [*range(1, 70), 1000, 4097]:
        assert sorted(permute(i, size, key=5) for i in range(size)) == list(range(size))


def test_problem_spaces_too_large_to_list_are_still_random_access():
    rows = arithmetic("train", digits=9, size=10**7)
    assert len(rows) == 10**7 and len(rows[9_999_999].prompt) == 20


def test_a_custom_format_is_used():
    assert " plus " in arithmetic("train", format="{a} plus {b}?")[0].prompt


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"digits": 0}, "digits"),
        ({"digits": 10}, "digits"),
        ({"operators": ["^"]}, "operators"),
        ({"operators": []}, "operators"),
        ({"eval_share": 1.0}, "eval_share"),
        ({"format": "{x}"}, "format"),
        ({"size": 0}, "no rows"),
        ({"digit": 2}, "digit"),
    ],
)
def test_impossible_arguments_are_refused_by_name(args, named):
    with pytest.raises(ConfigError, match=named):
        load_rows(DataConfig(source="task:arithmetic", task_args=args), "train")


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="arithmetic") as caught:
        load_rows(DataConfig(source="task:aritmetic"), "train")
    assert "data.source" in caught.value.message


def test_a_task_of_the_users_own_is_loaded_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "own_task_module.py").write_text(
        "from rayrl.data.rows import Row\ndef count(split, n=3):\n    return [Row(f'{split} {i}', str(i), 'count') for i in range(n)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = load_rows(DataConfig(source="task:own_task_module:count", task_args={"n": 2}), "eval")
    assert [row.prompt for row in rows] == ["eval 0", "eval 1"]
