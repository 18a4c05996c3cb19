"""Intrinsic reward arithmetic against one-frame-at-a-time references."""

import numpy as np
import pytest

from rayrl.algorithms import intrinsic
from rayrl.algorithms.running_stats import RunningStats

SEEDS = range(200)


def frames(seed: int):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 40)), int(rng.integers(1, 9)))
    hashes = rng.choice(rng.integers(0, 2**64, 30, dtype=np.uint64), shape)
    counts = rng.integers(1, 9000, shape).astype(np.int32) if seed % 2 else rng.integers(1, 12, shape).astype(np.int32)
    return rng, hashes, counts, rng.normal(scale=20, size=shape).astype(np.float32)


def table(rng, hashes):
    return {int(h): (np.nan if rng.random() < 0.3 else float(rng.normal())) for h in np.unique(hashes)}


def rater(known, rule):
    return lambda distinct, n: rule(np.array([known[int(h)] for h in distinct], np.float32))


@pytest.mark.parametrize("kind", ["retrieval", "classification", "count"])
def test_the_combined_reward_is_that_of_one_frame_at_a_time(kind):
    for seed in SEEDS:
        rng, hashes, counts, rewards = frames(seed)
        known, a, b, s, beta = table(rng, hashes), rng.random(), rng.random(), rng.random(), rng.uniform(0, 4)
        rules = {
            "retrieval": (intrinsic.retrieval, lambda y: 0.0 if np.isnan(y) else y),
            "classification": (lambda p: intrinsic.classification(p, 0.5), lambda p: 1.0 if p > 0.5 else 0.0),
            "count": (lambda p: np.ones_like(p), lambda p: 1.0),
        }
        vectorised, one = rules[kind]
        rated = intrinsic.per_message(hashes, rater(known, vectorised))
        found = intrinsic.extrinsic(rewards, a, s, 10.0) + b * rated * intrinsic.novelty(counts, beta)
        expected = [
            a * max(-10.0, min(10.0, s * float(r))) + b * one(known[int(h)]) * float(n) ** -beta
            for r, h, n in zip(rewards.flat, hashes.flat, counts.flat, strict=True)
        ]
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_the_threshold_of_classification_is_strict():
    assert intrinsic.classification(np.array([0.5, 0.5000001, np.nan], np.float32), 0.5).tolist() == [0.0, 1.0, 0.0]


def test_a_frame_without_message_is_worth_nothing():
    assert intrinsic.novelty(np.array([0, 1, 2, 10_000], np.int32), 3.0).tolist() == pytest.approx([0.0, 1.0, 0.125, 1e-12])


def test_ranking_ignores_scale_and_shift_of_the_score():
    """Normalisation is applied: kR + c earns what R earns."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        k, c = float(rng.uniform(0.2, 5)), float(rng.normal(scale=10))
        plain, moved = RunningStats(), RunningStats()
        rewards = []
        for _ in range(40):
            scores, times = rng.normal(size=50), rng.integers(1, 9, 50)
            plain.update(np.repeat(scores, times))
            moved.update(np.repeat(k * scores + c, times))
            rewards = [intrinsic.ranking(scores, plain, -0.5), intrinsic.ranking(k * scores + c, moved, -0.5)]
        clear = np.abs((scores - plain.mean) / np.sqrt(plain.variance) + 0.5) > 1e-3  # not at the threshold itself
        assert np.abs(rewards[0] - rewards[1])[clear].max() < 1e-3


def test_ranking_keeps_what_is_above_the_threshold_and_nothing_else():
    moments = RunningStats()
    moments.restore({"mean": 1.0, "variance": 4.0, "weight": 10.0})
    found = intrinsic.ranking(np.array([-1.0, 0.0, 0.5, 1.0, 5.0, np.nan], np.float32), moments, -0.5)
    assert found.tolist() == pytest.approx([0.0, 0.0, -0.25, 0.0, 2.0, 0.0])


def test_similar_texts_are_closer_than_unrelated_ones():
    texts = ["You kill the newt!", "You killed a newt.", "There is an altar to Anhur here.", "", "??"]
    vectors = intrinsic.text_vectors(texts)
    similar = intrinsic.cosine(vectors, vectors[0], -1.0)
    assert similar[0] == pytest.approx(1.0) and similar[1] > 0.5 > similar[2] and similar[3] == similar[4] == 0.0
    assert intrinsic.cosine(vectors, vectors[0], 0.5)[2] == 0.0
    np.testing.assert_array_equal(vectors, intrinsic.text_vectors(texts))
