"""Pair builders: who is compared with whom, against brute force over groups."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.algorithms import registry
from rayrl.algorithms.batch import BatchInputs
from rayrl.algorithms.pairs import all_pairs, best_worst, information_gain, upo, verified, zermelo, zermelo_best_worst


def random_batch(rng, heads=3, binary=False, kept=0.85) -> BatchInputs:
    sizes = rng.integers(1, 6, rng.integers(1, 5))
    n = int(sizes.sum())
    rewards = (rng.integers(0, 3, n) if binary else rng.normal(size=n)).astype(np.float32)
    components = {f"h{i}": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)).astype(np.float32) for i in range(heads)}
    group, lengths = np.repeat(np.arange(len(sizes)), sizes), rng.integers(0, 9, n)
    weights = dict.fromkeys(components, 1.0)
    return BatchInputs(rewards, group, lengths, rng.random(n) < kept, components, weights, np.random.default_rng(int(rng.integers(99))))


def able(x, g):
    return [i for i in np.flatnonzero(x.group == g) if x.kept[i] and x.lengths[i] > 0]


@pytest.mark.parametrize("name", registry.PAIRS)
def test_pairs_stay_in_their_group_and_the_better_one_is_chosen(name):
    rng = np.random.default_rng(0)
    build = registry.load(registry.PAIRS, name, "k")
    for _ in range(200):
        x = random_batch(rng, binary=bool(rng.integers(2)))
        pairs = build(x)
        assert len(pairs.chosen) == len(pairs.rejected) == len(pairs.target) == len(pairs.weight) == len(pairs)
        for w, v in zip(pairs.chosen, pairs.rejected, strict=True):
            assert x.group[w] == x.group[v] and w != v and x.kept[[w, v]].all() and (x.lengths[[w, v]] > 0).all()
            assert name == "zermelo_best_worst" or x.rewards[w] > x.rewards[v], "equal rewards are no preference"
        again = build(BatchInputs(**{**x.__dict__, "rng": np.random.default_rng(1)}))
        assert name == "upo" or np.array_equal(pairs.chosen, again.chosen)


def test_every_pair_of_different_rewards_is_found_once():
    rng = np.random.default_rng(1)
    for _ in range(200):
        x = random_batch(rng, binary=True)
        expected = {(i, j) for g in set(x.group) for i in able(x, g) for j in able(x, g) if x.rewards[i] > x.rewards[j]}
        pairs = all_pairs(x)
        assert {*zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)} == expected and len(pairs) == len(expected)
        np.testing.assert_allclose(pairs.target, x.rewards[pairs.chosen] - x.rewards[pairs.rejected])
        per_prompt = all_pairs(x, per="prompt")
        with_pairs = {int(x.group[i]) for i, _ in expected}
        assert per_prompt.weight.sum() == pytest.approx(len(with_pairs), rel=1e-5)


def test_best_and_worst_are_the_extremes_and_a_tied_group_has_none():
    rng = np.random.default_rng(2)
    for _ in range(200):
        x = random_batch(rng, binary=True)
        pairs = best_worst(x)
        spread = [g for g in sorted(set(x.group)) if len(able(x, g)) and np.ptp(x.rewards[able(x, g)]) > 0]
        assert x.group[pairs.chosen].tolist() == spread
        for w, v, g in zip(pairs.chosen, pairs.rejected, spread, strict=True):
            assert x.rewards[w] == max(x.rewards[able(x, g)]) and x.rewards[v] == min(x.rewards[able(x, g)])


def test_right_answers_meet_wrong_ones_and_no_more_than_asked():
    rng = np.random.default_rng(3)
    for _ in range(200):
        x = random_batch(rng, binary=True)
        everything, few = verified(x), verified(x, per_positive=1)
        assert all(x.rewards[everything.chosen] >= 0.5) and all(x.rewards[everything.rejected] < 0.5)
        counts = {g: (sum(x.rewards[i] >= 0.5 for i in able(x, g)), sum(x.rewards[i] < 0.5 for i in able(x, g))) for g in set(x.group)}
        assert len(everything) == sum(a * b for a, b in counts.values())
        assert len(few) == sum(a * min(b, 1) for a, b in counts.values())


def test_zermelo_is_the_maximum_of_the_smoothed_likelihood():
    rng = np.random.default_rng(4)
    for _ in range(50):
        n = int(rng.integers(2, 6))
        votes = rng.integers(0, 4, (n, n)) * (1 - np.eye(n))
        s = zermelo(votes)
        assert np.log(s).mean() == pytest.approx(0, abs=1e-9)
        w = votes + 0.1 * (1 - np.eye(n))
        likelihood = lambda s, w=w: sum(w[i, j] * np.log(s[i] / (s[i] + s[j])) for i in range(len(s)) for j in range(len(s)) if i != j)
        for _ in range(20):
            assert likelihood(s) >= likelihood(s * np.exp(rng.normal(size=n) * 0.1)) - 1e-9
    two = zermelo(np.array([[0.0, 3.0], [1.0, 0.0]]))
    assert two[0] / two.sum() == pytest.approx(3.1 / 4.2), "two answers: the smoothed share of votes"
    assert np.isfinite(zermelo(np.triu(np.ones((4, 4)), 1))).all(), "a unanimous ranking stays finite"


def test_a_panel_gives_the_probability_and_silence_gives_no_pair():
    x = BatchInputs(
        np.array([0, 0, 0, 0, 0], np.float32),
        np.array([0, 0, 0, 1, 1]),
        np.ones(5, np.int64),
        np.ones(5, bool),
        {"a": np.array([2, 1, 0, np.nan, 1], np.float32), "b": np.array([2, 1, 0, np.nan, 1], np.float32)},
        {"a": 1.0, "b": 1.0},
    )
    pairs = zermelo_best_worst(x)
    assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == ([0], [2]) and 0.9 < pairs.target[0] < 1
    tied = BatchInputs(**{**x.__dict__, "components": {k: np.zeros(5, np.float32) for k in "ab"}})
    assert zermelo_best_worst(tied).target.tolist() == [0.5, 0.5]
    assert len(zermelo_best_worst(tied, drop_ties=True)) == 0


def test_information_gain_is_between_0_and_ln_2():
    rng = np.random.default_rng(5)
    p = rng.dirichlet([0.3, 0.3], size=(10, 500))
    gain = information_gain(p)
    assert (gain >= 0).all() and (gain <= np.log(2) + 1e-12).all()
    sure = np.array([[[1.0, 0.0]]] * 10)
    assert information_gain(sure)[0] == 0
    split = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert information_gain(split)[0] == pytest.approx(np.log(2)), "confident passes that disagree"


def test_pairs_on_which_most_passes_disagree_are_screened_out():
    agree, against = np.array([3, 0], np.float32), np.array([0, 3], np.float32)
    x = lambda *passes: BatchInputs(
        np.array([1, 0], np.float32),
        np.zeros(2, np.int64),
        np.ones(2, np.int64),
        np.ones(2, bool),
        {str(i): p for i, p in enumerate(passes)},
    )
    assert len(upo(x(agree, agree, against))) == 1
    assert len(upo(x(agree, against, against))) == 0
    assert len(upo(x(agree, against))) == 0, "a tie is no majority"
    sure, unsure = upo(x(agree, agree), smooth="uncertainty").target[0], upo(x(agree, agree, against), smooth="uncertainty").target[0]
    assert sure == pytest.approx(0, abs=1e-7) and 0 < unsure < 0.5
    assert upo(x(agree, agree), smooth="printed").target[0] >= 0.5
    assert upo(x(agree, agree, against)).target[0] == 0


def test_certain_pairs_are_drawn_first_when_a_share_is():
    rng = np.random.default_rng(6)
    sure = unsure = 0
    for seed in range(300):
        components = {str(i): np.array([4, 0, [5, 5, -3][i], 0], np.float32) for i in range(3)}
        x = BatchInputs(
            np.array([1, 0, 1, 0], np.float32),
            np.array([0, 0, 1, 1]),
            np.ones(4, np.int64),
            np.ones(4, bool),
            components,
            rng=np.random.default_rng(seed),
        )
        drawn = upo(x, share=0.5, mu=8.0)
        assert len(drawn) == 1
        sure, unsure = sure + (drawn.chosen[0] == 0), unsure + (drawn.chosen[0] == 2)
        assert len(upo(x, share=0.5, pick="hard")) == 1
    assert sure > 3 * unsure and rng is not None
