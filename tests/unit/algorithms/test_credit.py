"""Outcome estimators against numpy loops over groups, TRL's statistics, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rayrl.algorithms.credit import OutcomeInputs, dr_grpo, group_mean, grpo, rewards_minus_kl, rloo

ESTIMATORS = [grpo, dr_grpo, rloo]


def outcome(rewards, group, kept=None):
    rewards = torch.as_tensor(rewards, dtype=torch.float32)
    kept = torch.ones(len(rewards), dtype=torch.bool) if kept is None else torch.tensor(kept, dtype=torch.bool)
    return OutcomeInputs(rewards, torch.tensor(group, dtype=torch.int64), torch.full((len(rewards),), 5), kept)


def random_outcome(rng: np.random.Generator) -> OutcomeInputs:
    """Shuffled groups of unequal size, discrete or continuous rewards, some samples failed with NaN as their reward."""
    sizes = rng.integers(1, 9, size=rng.integers(1, 7))
    group = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(group)
    rewards = rng.integers(0, 2, len(group)).astype(np.float32) if rng.random() < 0.5 else rng.normal(size=len(group)).astype(np.float32)
    kept = rng.random(len(group)) < rng.choice([0.0, 0.5, 1.0], p=[0.1, 0.4, 0.5])
    return outcome(np.where(kept, rewards, np.nan), group, kept)


def brute_force(inputs: OutcomeInputs, name: str) -> np.ndarray:
    rewards, group, kept = (x.numpy() for x in (inputs.rewards, inputs.group, inputs.kept))
    out = np.zeros(len(rewards))
    for i in range(len(rewards)):
        if not kept[i]:
            continue
        mates = [float(rewards[j]) for j in range(len(rewards)) if group[j] == group[i] and kept[j]]
        mean = math.fsum(mates) / len(mates)
        if name == "grpo":
            variance = math.fsum((r - mean) ** 2 for r in mates) / max(len(mates) - 1, 1)
            out[i] = (rewards[i] - mean) / (math.sqrt(variance) + 1e-4)
        elif name == "dr_grpo":
            out[i] = rewards[i] - mean
        elif len(mates) > 1:
            out[i] = rewards[i] - (math.fsum(mates) - float(rewards[i])) / (len(mates) - 1)
    return out


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_outcome_advantages_equal_a_loop_over_groups(estimator):
    rng = np.random.default_rng(0)
    for _ in range(300):
        inputs = random_outcome(rng)
        got = estimator(inputs)
        assert got.dtype == torch.float32 and got.shape == inputs.rewards.shape
        np.testing.assert_allclose(got.numpy(), brute_force(inputs, estimator.__name__), rtol=1e-5, atol=1e-6)


def test_grpo_on_binary_rewards_has_the_closed_form():
    n, correct = 8, 3
    advantage = grpo(outcome([1.0] * correct + [0.0] * (n - correct), [0] * n))
    p = correct / n
    std = math.sqrt(p * (1 - p) * n / (n - 1))
    assert advantage[0].item() == pytest.approx((1 - p) / (std + 1e-4), rel=1e-6)
    assert advantage[-1].item() == pytest.approx(-p / (std + 1e-4), rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("reward", [0.0, 0.1, -3.7, 1e6])
def test_equal_rewards_give_exactly_zero_advantage(estimator, reward):
    for n in (1, 2, 3, 7, 64):
        assert estimator(outcome([reward] * n, [0] * n)).eq(0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_failed_sample_has_no_advantage_and_moves_no_baseline(estimator):
    with_failure = estimator(outcome([1.0, 0.0, math.nan, 0.5], [0, 0, 0, 0], [True, True, False, True]))
    without = estimator(outcome([1.0, 0.0, 0.5], [0, 0, 0]))
    assert with_failure[2] == 0
    assert torch.equal(with_failure[[0, 1, 3]], without)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_all_failed_and_empty_batches_give_zeros(estimator):
    assert estimator(outcome([math.nan] * 4, [0, 0, 1, 1], [False] * 4)).eq(0).all()
    assert estimator(outcome([], [])).shape == (0,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantages_sum_to_zero_and_do_not_depend_on_the_order(estimator):
    rng = np.random.default_rng(1)
    for _ in range(100):
        inputs = random_outcome(rng)
        order = torch.from_numpy(rng.permutation(len(inputs.rewards)))
        moved = OutcomeInputs(inputs.rewards[order], inputs.group[order], inputs.lengths[order], inputs.kept[order])
        got = estimator(inputs)
        torch.testing.assert_close(estimator(moved), got[order], rtol=1e-6, atol=1e-7)
        for g in inputs.group.unique():
            assert got[inputs.group == g].double().sum().abs() < 1e-5


def test_rloo_is_dr_grpo_times_n_over_n_minus_1():
    rng = np.random.default_rng(2)
    for _ in range(100):
        n = int(rng.integers(2, 17))
        inputs = outcome(rng.normal(size=n), [0] * n)
        torch.testing.assert_close(rloo(inputs), dr_grpo(inputs) * (n / (n - 1)), rtol=1e-5, atol=1e-6)


def test_group_mean_includes_the_sample_itself_and_skips_failed_ones():
    mean = group_mean(outcome([1.0, 0.0, math.nan, 4.0, math.nan], [0, 0, 0, 1, 2], [True, True, False, True, False]))
    assert mean.tolist() == [0.5, 0.5, 0.5, 4.0, 0.0]


def test_kl_in_the_reward_shifts_the_advantage_by_its_centred_penalty():
    rewards, kl = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.2, 0.1, 0.0])
    shaped = rewards_minus_kl(rewards, kl, 0.5)
    group, kept = [0, 0, 0], [True] * 3
    expected = dr_grpo(outcome(rewards, group, kept)) - 0.5 * (kl - kl.mean())
    torch.testing.assert_close(dr_grpo(outcome(shaped, group, kept)), expected)


def test_inputs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        OutcomeInputs(torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3), torch.ones(3, dtype=torch.bool))
