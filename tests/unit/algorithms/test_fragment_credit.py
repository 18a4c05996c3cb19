"""Targets of a fragment are those of the whole episode: no reward is lost at a border, truncation bootstraps, termination does not."""

import numpy as np
import pytest
import torch

from rayrl.algorithms.fragment_credit import Steps, gae, vtrace

SEEDS = range(200)
LENGTHS = (8, 32, 100)


def world(seed: int, total: int = 240, envs: int = 2) -> dict[str, np.ndarray]:
    """A long stretch of interleaved episodes; values are arbitrary functions of the row."""
    rng = np.random.default_rng(seed)
    ends = rng.random((total, envs)) < 1 / rng.integers(5, 60)
    truncated = ends & (rng.random((total, envs)) < 0.5)
    return {
        "rewards": rng.normal(size=(total, envs)),
        "values": rng.normal(size=(total + 1, envs)),
        "terminated": ends & ~truncated,
        "truncated": truncated,
        "final_values": np.where(truncated, rng.normal(size=(total, envs)), np.nan),
        "ratios": np.exp(rng.normal(scale=0.4, size=(total, envs))),
    }


def reference(w: dict, env: int, t: int, stop: int, gamma: float, decay: np.ndarray, weight: np.ndarray) -> float:
    """Sum over the rest of the episode within the fragment, term by term: Σ γ^(i-t) (Π decay) weight_i δ_i. No recursion."""
    total, factor = 0.0, 1.0
    for i in range(t, stop):
        if w["terminated"][i, env]:
            following = 0.0
        elif w["truncated"][i, env]:
            following = w["final_values"][i, env]
        else:
            following = w["values"][i + 1, env]
        total += factor * weight[i, env] * (w["rewards"][i, env] + gamma * following - w["values"][i, env])
        if w["terminated"][i, env] or w["truncated"][i, env]:
            break
        factor *= gamma * decay[i, env]
    return total


def cut(w: dict, start: int, stop: int) -> Steps:
    part = {name: torch.tensor(w[name][start:stop]) for name in ("rewards", "terminated", "truncated", "final_values")}
    return Steps(values=torch.tensor(w["values"][start : stop + 1]), **part)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("method", ["gae", "vtrace"])
def test_fragments_give_the_targets_of_the_whole_episode(method, length):
    for seed in SEEDS:
        w, rng = world(seed), np.random.default_rng(seed)
        gamma, lam, rho, c = rng.uniform(0.8, 1), rng.uniform(0, 1), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
        total = len(w["rewards"])
        start = int(rng.integers(0, total - length + 1))
        stop = start + length
        if method == "gae":
            _, targets = gae(cut(w, start, stop), gamma, lam)
            weight, decay = np.ones_like(w["ratios"]), np.full_like(w["ratios"], lam)
        else:
            advantages, targets = vtrace(cut(w, start, stop), torch.tensor(w["ratios"][start:stop]), gamma, rho, c)
            weight, decay = np.minimum(rho, w["ratios"]), np.minimum(c, w["ratios"])
        for env in range(2):
            expected = [w["values"][t, env] + reference(w, env, t, stop, gamma, decay, weight) for t in range(start, stop)]
            np.testing.assert_allclose(targets[:, env].numpy(), expected, rtol=1e-9, atol=1e-9)
            if method == "vtrace":
                expected.append(w["values"][stop, env])
                for t in range(start, stop):
                    after = (
                        0.0 if w["terminated"][t, env] else w["final_values"][t, env] if w["truncated"][t, env] else expected[t - start + 1]
                    )
                    advantage = w["rewards"][t, env] + gamma * after - w["values"][t, env]
                    assert advantages[t - start, env].item() == pytest.approx(advantage, abs=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
def test_with_true_values_every_fragment_gives_the_discounted_return_of_the_episode(length):
    """Whatever stands at the border: also the reward of a fragment's last step teaches."""
    for seed in SEEDS:
        w, gamma = world(seed, total=100 + 2 * (seed % 3)), 0.97
        total = len(w["rewards"])
        for env in range(2):
            for t in reversed(range(total)):  # values become the exact returns of this very stretch
                after = 0.0 if w["terminated"][t, env] else w["final_values"][t, env] if w["truncated"][t, env] else w["values"][t + 1, env]
                w["values"][t, env] = w["rewards"][t, env] + gamma * after
        for start in range(0, total - length + 1, length):
            steps = cut(w, start, start + length)
            for advantages, targets in (gae(steps, gamma, 0.9), vtrace(steps, torch.ones_like(steps.rewards), gamma, 1.0, 1.0)):
                np.testing.assert_allclose(targets.numpy(), w["values"][start : start + length], atol=1e-9)
                assert advantages.abs().max() < 1e-9


def test_the_last_reward_of_a_fragment_moves_its_target_one_to_one():
    w = world(0)
    w["terminated"][:], w["truncated"][:] = False, False
    more = {**w, "rewards": w["rewards"].copy()}
    more["rewards"][31] += 1.0
    ones = torch.ones(32, 2, dtype=torch.float64)
    before, after = (vtrace(cut(x, 0, 32), ones, 0.99, 1.0, 1.0) for x in (w, more))
    np.testing.assert_allclose((after[1] - before[1])[:, 0].numpy(), 0.99 ** np.arange(31, -1, -1), rtol=1e-9)
    assert (after[0] - before[0])[31, 0].item() == pytest.approx(1.0)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="one row more"):
        Steps(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2) > 0, torch.zeros(4, 2) > 0, torch.zeros(4, 2))
