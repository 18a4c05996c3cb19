import numpy as np
import pytest

from rayrl.reward_models.questions import choose_pairs, choose_singles, pair_uncertainty


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_pair_never_has_equal_texts_and_no_pair_of_texts_comes_twice():
    texts = ["a", "b", "a", "a", "c", "b"]
    for seed in range(100):
        pairs = choose_pairs(texts, None, 10, rng(seed))
        named = [frozenset((texts[i], texts[j])) for i, j in pairs]
        assert all(len(pair) == 2 for pair in named) and len(set(named)) == len(named) == 3
    assert choose_pairs(["a", "a"], None, 3, rng()) == [] and choose_pairs(["a"], np.zeros((1, 2)), 3, rng()) == []


def test_half_of_the_questions_go_where_the_model_is_least_sure():
    heads = np.array([[9.0], [0.1], [0.0], [-9.0]])
    texts = list("abcd")
    for seed in range(50):
        pairs = choose_pairs(texts, heads, 2, rng(seed))
        assert pairs[0] == (1, 2) and len(pairs) == 2
    assert len({choose_pairs(texts, heads, 2, rng(seed))[1] for seed in range(50)}) == 5, "the other half is random"


def test_disagreement_of_heads_is_uncertainty_too():
    sure, unsure, split = pair_uncertainty(np.array([[5.0, 5.0], [0.0, 0.0], [5.0, -5.0]]))
    assert sure < 0.1 and unsure == pytest.approx(np.log(2)) == pytest.approx(split)
    heads = np.array([[1.0, 1.0], [0.0, 4.0], [2.0, 2.0]])
    assert choose_singles(["a", "b", "c"], heads, 1, rng()) == [1]


def test_without_a_model_any_pair_is_chosen_sometimes():
    seen = {choose_pairs(list("abcd"), None, 1, rng(seed))[0] for seed in range(100)}
    assert len(seen) == 6
