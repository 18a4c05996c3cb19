"""Token estimators against a loop over the action tokens of each trajectory, on one rank and on several."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from rayrl.algorithms.token_credit import (
    TokenInputs,
    alone,
    discounted_sums,
    gae,
    gae_raw,
    reinforce_pp,
    reinforce_pp_baseline,
    token_rewards,
    whiten,
)

ESTIMATORS = [gae, gae_raw, reinforce_pp, reinforce_pp_baseline]


@pytest.fixture
def random_inputs(random_mask, tensor):
    """Rewards, values and everything outside the mask are arbitrary: whoever reads a gap is found out."""

    def make(rng: np.random.Generator, rows: int | None = None, width: int | None = None) -> TokenInputs:
        rows, width = rows if rows is not None else int(rng.integers(1, 6)), width or int(rng.integers(1, 14))
        garbage = tensor(rng, rows, width, scale=1e3)
        mask = random_mask(rng, rows, width)
        values = torch.where(mask, tensor(rng, rows, width), garbage)
        rewards = torch.where(mask, tensor(rng, rows, width), garbage)
        gamma, lam = rng.choice([1.0, 0.9, 0.0]), rng.choice([1.0, 0.95, 0.0])
        return TokenInputs(rewards, mask, values, tensor(rng, rows), float(gamma), float(lam))

    return make


def gae_loop(inputs: TokenInputs) -> tuple[np.ndarray, np.ndarray]:
    """Trajectory by trajectory, on the list of action tokens alone, straight from the definition (a double sum)."""
    rewards, values, mask = inputs.token_rewards.numpy(), inputs.values.numpy(), inputs.action_mask.numpy()
    advantages, returns = np.zeros(mask.shape), np.zeros(mask.shape)
    for b in range(mask.shape[0]):
        at = np.flatnonzero(mask[b])
        v = [*values[b, at], 0.0]
        delta = [rewards[b, t] + inputs.gamma * v[i + 1] - v[i] for i, t in enumerate(at)]
        for i, t in enumerate(at):
            advantages[b, t] = sum((inputs.gamma * inputs.lam) ** k * d for k, d in enumerate(delta[i:]))
            returns[b, t] = advantages[b, t] + v[i]
    return advantages, returns


def reward_to_go_loop(inputs: TokenInputs) -> np.ndarray:
    rewards, mask = inputs.token_rewards.numpy(), inputs.action_mask.numpy()
    out = np.zeros(mask.shape)
    for b in range(mask.shape[0]):
        at = np.flatnonzero(mask[b])
        for i, t in enumerate(at):
            out[b, t] = sum(inputs.gamma**k * rewards[b, s] for k, s in enumerate(at[i:]))
    return out


def whiten_loop(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    tokens = values[mask]
    out = np.zeros(values.shape)
    if tokens.size:
        out[mask] = (tokens - tokens.mean()) / np.sqrt(max(tokens.var(), 1e-8))
    return out


def test_gae_equals_a_loop_that_never_sees_environment_tokens(random_inputs):
    rng = np.random.default_rng(0)
    for _ in range(300):
        inputs = random_inputs(rng)
        advantages, returns = gae_loop(inputs)
        raw = gae_raw(inputs)
        np.testing.assert_allclose(raw.advantages, advantages, atol=1e-10)
        np.testing.assert_allclose(raw.returns, returns, atol=1e-10)
        whitened = gae(inputs)
        np.testing.assert_allclose(whitened.advantages, whiten_loop(advantages, inputs.action_mask.numpy()), atol=1e-9)
        np.testing.assert_allclose(whitened.returns, returns, atol=1e-10)


def test_reinforce_pp_equals_whitened_rewards_to_go(random_inputs):
    rng = np.random.default_rng(1)
    for _ in range(200):
        inputs = random_inputs(rng)
        got = reinforce_pp(inputs)
        np.testing.assert_allclose(got.advantages, whiten_loop(reward_to_go_loop(inputs), inputs.action_mask.numpy()), atol=1e-9)
        assert got.returns is None


def test_reinforce_pp_baseline_spreads_the_centred_reward_over_all_tokens(random_mask, tensor):
    rng = np.random.default_rng(2)
    for _ in range(100):
        mask = random_mask(rng, 5, 9)
        rewards, baseline = tensor(rng, 5), tensor(rng, 5)
        inputs = TokenInputs(token_rewards(rewards, mask), mask, baseline=baseline)
        centred = np.where(mask.numpy(), (rewards - baseline).numpy()[:, None], 0)
        np.testing.assert_allclose(reinforce_pp_baseline(inputs).advantages, whiten_loop(centred, mask.numpy()), atol=1e-9)


def test_gae_limits_are_the_td_error_and_the_monte_carlo_return(random_inputs):
    rng = np.random.default_rng(3)
    inputs = random_inputs(rng, 4, 12)
    monte_carlo = gae_raw(replace(inputs, lam=1.0))
    np.testing.assert_allclose(monte_carlo.returns, reward_to_go_loop(inputs), atol=1e-10)
    td = gae_raw(replace(inputs, gamma=0.0)).advantages
    expected = torch.where(inputs.action_mask, inputs.token_rewards - inputs.values, 0)
    torch.testing.assert_close(td, expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_inserting_environment_tokens_changes_no_action_token(estimator, random_inputs):
    rng = np.random.default_rng(4)
    for _ in range(50):
        inputs = random_inputs(rng)
        rows, width = inputs.action_mask.shape
        wider = width + 5
        columns = torch.from_numpy(np.sort(rng.permutation(wider)[:width]))

        def spread(x, fill, rows=rows, wider=wider, columns=columns):
            return torch.full((rows, wider), fill, dtype=x.dtype).index_copy_(1, columns, x)

        gapped = replace(
            inputs,
            token_rewards=spread(inputs.token_rewards, 77.0),
            action_mask=spread(inputs.action_mask, False),
            values=spread(inputs.values, -55.0),
        )
        got, expected = estimator(gapped), estimator(inputs)
        torch.testing.assert_close(got.advantages[:, columns], expected.advantages)
        assert got.advantages[~gapped.action_mask].eq(0).all()


class RankSum:
    """An all-reduce between threads, each call with a limit."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks, timeout=20)
        self._slots = [torch.zeros(())] * ranks

    def at(self, rank: int):
        def reduce(x: torch.Tensor) -> torch.Tensor:
            self._slots[rank] = x
            self._barrier.wait()
            total = torch.stack(self._slots).sum(0)
            self._barrier.wait()
            return total

        return reduce


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_split_over_ranks_gives_the_advantages_of_one_rank(estimator, random_inputs):
    rng = np.random.default_rng(5)
    for _ in range(15):
        inputs = random_inputs(rng, rows=7)
        whole = estimator(inputs).advantages
        owner = torch.from_numpy(rng.integers(0, 3, size=7))  # a rank may own nothing
        ranks = RankSum(3)

        def work(rank, inputs=inputs, owner=owner, ranks=ranks):
            mine = owner == rank
            part = TokenInputs(
                inputs.token_rewards[mine],
                inputs.action_mask[mine],
                inputs.values[mine],
                inputs.baseline[mine],
                inputs.gamma,
                inputs.lam,
            )
            return estimator(part, ranks.at(rank)).advantages

        with ThreadPoolExecutor(3) as pool:
            for rank, part in enumerate(pool.map(work, range(3), timeout=30)):
                torch.testing.assert_close(part, whole[owner == rank], rtol=1e-12, atol=1e-12)


def test_whitened_tokens_have_mean_0_and_variance_1(random_mask, tensor):
    rng = np.random.default_rng(6)
    mask = random_mask(rng, 8, 20)
    tokens = whiten(tensor(rng, 8, 20) * 3 + 100, mask, alone)[mask]
    assert tokens.mean().abs() < 1e-10 and (tokens.var(correction=0) - 1).abs() < 1e-10


def test_equal_tokens_whiten_to_zero_and_nothing_to_nothing():
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert whiten(torch.full((2, 3), 0.1), mask, alone).abs().max() < 1e-6
    assert whiten(torch.zeros(2, 3), ~mask, alone).eq(0).all()


def test_outcome_reward_stands_on_the_last_action_token_and_kl_on_every_one():
    mask = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    kl = torch.full((3, 6), 0.5)
    got = token_rewards(torch.tensor([2.0, 3.0, 9.0]), mask, kl, kl_coef=0.1)
    expected = torch.zeros(3, 6)
    expected[0, [1, 2, 4]] = -0.05
    expected[0, 4] += 2.0
    expected[1, 0] = 3.0 - 0.05
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(token_rewards(torch.tensor([2.0, 3.0, 9.0]), mask).sum(-1), torch.tensor([2.0, 3.0, 0.0]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 5)])
def test_empty_micro_batches_and_completions_of_length_0_give_zeros(estimator, shape):
    nothing = TokenInputs(torch.ones(shape), torch.zeros(shape, dtype=torch.bool), torch.ones(shape), torch.ones(shape[0]))
    advantages = estimator(nothing).advantages
    assert advantages.shape == shape and advantages.eq(0).all()
    assert token_rewards(torch.ones(shape[0]), nothing.action_mask).shape == shape


def test_missing_values_or_baseline_are_refused():
    inputs = TokenInputs(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="values"):
        gae(inputs)
    with pytest.raises(ValueError, match="baseline"):
        reinforce_pp_baseline(inputs)


def test_discounted_sums_stay_accurate_over_long_float32_trajectories():
    x = torch.from_numpy(np.random.default_rng(7).normal(size=(1, 20_000)))
    exact, y = np.zeros(20_000), 0.0
    for t in reversed(range(20_000)):
        y = float(x[0, t]) + 0.999 * y
        exact[t] = y
    np.testing.assert_allclose(discounted_sums(x.float(), 0.999)[0], exact, atol=2e-4)
