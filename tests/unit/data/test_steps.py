"""Steps of a text, and the tokens that end them: every token belongs to one step, and both views count the same steps."""

import itertools

import numpy as np
import pytest

from rayrl.data.packing import plan_by_group, plan_ranks_by_group
from rayrl.data.steps import split_steps, step_ends


@pytest.mark.parametrize(
    ("text", "steps"),
    [("", []), ("  ", []), ("a", ["a"]), ("a,b", ["a,", "b"]), ("a,b,", ["a,", "b,"]), (",,a", ["a"]), ("a, ,b", ["a,", "b"])],
)
def test_steps_are_the_pieces_between_separators(text, steps):
    assert [text[a:b] for a, b in split_steps(text, ",")] == steps


def test_tokens_and_text_agree_on_random_texts():
    rng = np.random.default_rng(0)
    for _ in range(500):
        separator = str(rng.choice([",", "\n\n", "->"]))
        text = "".join(rng.choice([*list("ab1 \n"), separator], rng.integers(0, 20)))
        cuts = sorted({0, len(text), *rng.integers(0, len(text) + 1, rng.integers(0, 8)).tolist()})
        tokens = [text[a:b] for a, b in itertools.pairwise(cuts)] + ["", ""][: rng.integers(0, 3)]
        ends, spans = step_ends(tokens, separator), split_steps(text, separator)
        assert len(ends) == len(spans) and ends == sorted(ends)
        if ends:
            assert ends[-1] == len(tokens) - 1
        for (_, end), at in zip(spans[:-1], ends[:-1], strict=True):
            before = sum(map(len, tokens[:at]))
            assert before < end <= before + len(tokens[at]), "the step's last character is in that token"


def test_whole_groups_stay_in_one_micro_batch_and_in_the_budget():
    rng = np.random.default_rng(1)
    for _ in range(300):
        ranks = [[rng.integers(1, 30, rng.integers(0, 5)).tolist() for _ in range(rng.integers(0, 7))] for _ in range(3)]
        budget, packed = int(rng.integers(30, 200)), bool(rng.integers(2))
        plans = plan_ranks_by_group(ranks, budget, packed=packed)
        assert len({len(plan) for plan in plans}) == 1
        for groups, plan in zip(ranks, plans, strict=True):
            owner = [k for k, g in enumerate(groups) for _ in g]
            lengths = [n for g in groups for n in g]
            assert sorted(r for rows in plan for r in rows) == list(range(len(lengths)))
            for rows in plan:
                inside = {owner[r] for r in rows}
                assert len(rows) == sum(len(groups[k]) for k in inside), "no group is cut"
                cost = sum(lengths[r] for r in rows) if packed else len(rows) * max((lengths[r] for r in rows), default=0)
                assert cost <= budget or len(inside) == 1
    assert plan_by_group([], 10, packed=False) == []
