"""Rewards that look at the whole batch, against loops over groups and the properties that the papers state."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from rayrl.algorithms.batch import BatchInputs
from rayrl.algorithms.shaping import grpo_lambda, laser, laser_d, none, short_wrong, win_rate


def random_batch(rng, *, binary=True, groups=None, kept=0.85, judges=0) -> BatchInputs:
    sizes = rng.integers(1, 7, groups or rng.integers(1, 6))
    n = int(sizes.sum())
    rewards = (rng.integers(0, 2, n) if binary else rng.normal(size=n)).astype(np.float32)
    components = {f"j{i}": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)).astype(np.float32) for i in range(judges)}
    weights = {name: float(rng.uniform(0.5, 2)) for name in components}
    return BatchInputs(rewards, np.repeat(np.arange(len(sizes)), sizes), rng.integers(0, 30, n), rng.random(n) < kept, components, weights)


def members(x, g):
    return [i for i in range(len(x.rewards)) if x.group[i] == g and x.kept[i]]


def test_without_shaping_nothing_changes():
    x = random_batch(np.random.default_rng(0))
    assert none(x).rewards is x.rewards


@pytest.mark.parametrize("judges", [0, 3])
def test_win_rates_equal_a_round_robin_counted_by_hand(judges):
    rng = np.random.default_rng(1)
    for _ in range(200):
        x, band = random_batch(rng, binary=False, judges=judges), float(rng.choice([0.0, 0.3]))
        got = win_rate(x, tie_band=band).rewards
        columns = x.components or {"r": x.rewards}
        for g in set(x.group.tolist()):
            group = members(x, g)
            for i in group:
                total = 0.0
                for name, values in columns.items():
                    made = [j for j in group if j != i and not np.isnan(values[i]) and not np.isnan(values[j])]
                    won = sum(
                        1.0
                        if values[i].astype(float) - values[j] > band
                        else 0.5
                        if abs(values[i].astype(float) - values[j]) <= band
                        else 0
                        for j in made
                    )
                    total += x.weights.get(name, 1.0) * (won / len(made) if made else 0.5)
                assert got[i] == pytest.approx(total / sum(x.weights.get(name, 1.0) for name in columns), abs=1e-6)
            if not judges and len(group) > 1:
                assert got[group].sum() == pytest.approx(len(group) / 2, rel=1e-5), "a full round robin adds up to n / 2"


def test_ties_have_no_winner_and_scale_does_not_matter():
    x = BatchInputs(np.array([0.9, 0.901, 0.9, 0.902], np.float32), np.zeros(4, np.int64), np.ones(4, np.int64), np.ones(4, bool))
    assert set(win_rate(x, tie_band=0.1).rewards.tolist()) == {0.5}
    scaled = BatchInputs(x.rewards * 1000, x.group, x.lengths, x.kept)
    assert np.array_equal(win_rate(x).rewards, win_rate(scaled).rewards)
    alone = BatchInputs(x.rewards[:1], x.group[:1], x.lengths[:1], x.kept[:1])
    assert win_rate(alone).rewards.tolist() == [0.5]


def test_short_wrong_answers_are_punished_in_proportion():
    rng = np.random.default_rng(2)
    for _ in range(300):
        x, tau = random_batch(rng), float(rng.uniform(0.3, 1.5))
        got = short_wrong(x, penalty=0.5, tau=tau).rewards
        for g in set(x.group.tolist()):
            right = [i for i in members(x, g) if x.rewards[i] >= 1]
            for i in members(x, g):
                expected = float(x.rewards[i])
                if right and x.rewards[i] < 1:
                    floor = tau * np.mean([x.lengths[j] for j in right])
                    expected -= 0.5 * max(floor - x.lengths[i], 0) / floor if floor > 0 else 0
                assert got[i] == pytest.approx(expected, abs=1e-6)
    empty = BatchInputs(np.array([1, 0], np.float32), np.zeros(2, np.int64), np.array([8, 0]), np.ones(2, bool))
    assert short_wrong(empty, penalty=0.7).rewards.tolist() == pytest.approx([1, -0.7])


@pytest.mark.parametrize(("kind", "short", "long"), [("reward", 0.5, 0.0), ("penalty", 0.0, -0.5), ("hybrid", 0.5, -0.5)])
def test_laser_pays_right_answers_within_the_target_and_no_wrong_one(kind, short, long):
    x = BatchInputs(np.array([1, 1, 1, 0, 0], np.float32), np.zeros(5, np.int64), np.array([3, 4, 5, 3, 9]), np.ones(5, bool))
    gained = laser(x, target=4, kind=kind).rewards - x.rewards
    assert gained.tolist() == [short, short, long, 0, 0], "an answer of exactly the target counts as short"


def by_accuracy(right, wrong, length):
    n = right + wrong
    return BatchInputs(np.array([1] * right + [0] * wrong, np.float32), np.zeros(n, np.int64), np.full(n, length), np.ones(n, bool))


def test_targets_follow_the_difficulty_by_the_printed_rule():
    """With n = 8 a target covers 1/5, 1/2 and all of the answers of its band."""
    lengths = {"high": np.arange(10, 90, 10), "medium": np.arange(10, 90, 10), "low": np.arange(10, 90, 10)}
    right = {"high": 8, "medium": 4, "low": 0}
    group = np.repeat(np.arange(3), 8)
    rewards = np.concatenate([[1.0] * right[b] + [0.0] * (8 - right[b]) for b in ("high", "medium", "low")]).astype(np.float32)
    x = BatchInputs(rewards, group, np.concatenate([lengths[b] for b in ("high", "medium", "low")]), np.ones(24, bool))
    state, shaped = laser_d(None, x, target=1000, step=10, every=1)
    assert (state["target_high"], state["target_medium"], state["target_low"]) == (20, 40, 80)
    assert (shaped.rewards[:8] == 1.5).all(), "before the first estimate every right answer fits the fixed target"
    _, shaped = laser_d(state, x, target=1000, step=10, every=1)
    assert shaped.rewards[:8].tolist() == [1.5, 1.5, 1, 1, 1, 1, 1, 1] and shaped.rewards[8:12].tolist() == [1.5] * 4
    assert state["target_high"] <= state["target_medium"] <= state["target_low"], "hard problems keep room"
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize(
    ("right", "trained_as", "measured_as"), [(1, "medium", "low"), (2, "high", "medium"), (0, "low", "low"), (3, "high", "high")]
)
def test_band_edges_fall_on_the_sides_that_the_paper_gives_them(right, trained_as, measured_as):
    x = by_accuracy(right, 3 - right, 5)
    start = {"steps": 0, "seen": {b: [] for b in ("low", "medium", "high")}, "target_low": 1, "target_medium": 1, "target_high": 1}
    state, shaped = laser_d(start | {f"target_{trained_as}": 9}, x, every=100)
    assert [b for b, seen in state["seen"].items() if seen] == [measured_as]
    assert shaped.rewards[:right].tolist() == [1.5] * right


def test_a_band_without_answers_keeps_its_target():
    state, _ = laser_d(None, by_accuracy(4, 0, 40), target=77, step=10, every=1)
    assert (state["target_low"], state["target_medium"], state["target_high"]) == (77, 77, 40)


def test_length_costs_only_right_answers_of_the_best_groups():
    rng = np.random.default_rng(3)
    for _ in range(300):
        x, lam, alpha = random_batch(rng), float(rng.choice([0.0, 0.2, 0.5, 1.0])), float(rng.uniform(0, 1))
        got = grpo_lambda(x, lam=lam, alpha=alpha).rewards
        groups = [g for g in sorted(set(x.group.tolist())) if members(x, g)]
        shares = {g: np.mean([x.rewards[i] for i in members(x, g)]) for g in groups}
        count = 0 if lam == 0 else min(len(groups), max(1, math.ceil(round(lam * len(groups), 9))))
        best = sorted(groups, key=lambda g: (-shares[g], g))[:count]
        for g in groups:
            right = [i for i in members(x, g) if x.rewards[i] == 1]
            lengths = np.array([x.lengths[i] for i in right], float)
            for i in members(x, g):
                expected = float(x.rewards[i])
                if g in best and i in right:
                    std = lengths.std()
                    z = (x.lengths[i] - lengths.mean()) / std if std > 0 else 0.0
                    expected = 1 - alpha / (1 + math.exp(-z))
                assert got[i] == pytest.approx(expected, abs=1e-6)
            order = sorted(right, key=lambda i: x.lengths[i])
            assert all(got[a] >= got[b] - 1e-6 for a, b in pairwise(order)), "longer never earns more"


def test_groups_that_all_fail_are_never_divided_by():
    x = BatchInputs(np.zeros(6, np.float32), np.repeat([0, 1], 3), np.arange(6), np.ones(6, bool))
    assert grpo_lambda(x, lam=1.0).rewards.tolist() == [0.0] * 6
    nobody = BatchInputs(x.rewards, x.group, x.lengths, np.zeros(6, bool))
    for f in (grpo_lambda, short_wrong, win_rate, laser):
        assert np.isfinite(f(nobody).rewards).all()
    assert np.isfinite(laser_d(None, nobody, every=1)[1].rewards).all()
