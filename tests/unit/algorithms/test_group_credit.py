"""Outcome estimators of published methods against plain loops over groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rayrl.algorithms.credit import OutcomeInputs, grpo
from rayrl.algorithms.group_credit import gdpo, nsr, pama, pareto_weights, psr


def random_inputs(rng, *, binary=False, components=2, kept=0.85, nan=0.0) -> OutcomeInputs:
    sizes = rng.integers(1, 7, rng.integers(1, 6))
    n = int(sizes.sum())
    values = rng.integers(0, 2, (components, n)) if binary else rng.normal(size=(components, n))
    values = np.where(rng.random(values.shape) < nan, np.nan, values).astype(np.float32)
    return OutcomeInputs(
        torch.from_numpy(values[0]),
        torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        torch.ones(n, dtype=torch.int64),
        torch.from_numpy(rng.random(n) < kept),
        torch.from_numpy(values),
        torch.from_numpy(rng.normal(size=components).astype(np.float32)),
    )


def by_hand(values, kept, group, *, alone="zero"):
    """(v - mean) / (std_ddof1 + 1e-6), sample by sample."""
    out = np.zeros(len(values))
    for g in set(group.tolist()):
        members = [i for i in range(len(values)) if group[i] == g and kept[i] and not np.isnan(values[i])]
        for i in members:
            v = np.array([float(values[j]) for j in members])
            out[i] = (values[i] - v.mean()) / (v.std(ddof=1) + 1e-6) if len(v) > 1 else (values[i] if alone == "score" else 0)
    return out


def test_negative_and_positive_reinforcement_are_the_halves_of_the_group_advantage():
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = random_inputs(rng, binary=True)
        r, kept, group = x.rewards.numpy(), x.kept.numpy(), x.group.numpy()
        whole = by_hand(r, kept, group, alone="score")
        np.testing.assert_allclose(nsr(x), np.where((r < 1) & kept, whole, 0), atol=1e-6)
        np.testing.assert_allclose(psr(x), np.where((r > 0) & kept, whole, 0), atol=1e-6)
        several = np.array([(kept & (group == g)).sum() > 1 for g in group])
        np.testing.assert_allclose((nsr(x) + psr(x)).numpy()[several], grpo(x).numpy()[several], atol=2e-3)


@pytest.mark.parametrize(("reward", "negative", "positive"), [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0)])
def test_a_lone_sample_has_its_reward_for_an_advantage(reward, negative, positive):
    x = OutcomeInputs(torch.tensor([reward]), torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    assert (nsr(x).item(), psr(x).item()) == (negative, positive)


def test_an_all_wrong_group_teaches_negative_reinforcement_nothing():
    x = OutcomeInputs(torch.zeros(4), torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool))
    assert nsr(x).abs().max() == 0


def test_gdpo_normalises_each_component_then_weighs_then_whitens():
    rng = np.random.default_rng(1)
    for _ in range(300):
        x = random_inputs(rng, components=int(rng.integers(1, 4)), nan=0.1)
        kept, group = x.kept.numpy(), x.group.numpy()
        total = sum(float(w) * by_hand(c, kept, group) for w, c in zip(x.weights, x.components.numpy(), strict=True))
        np.testing.assert_allclose(gdpo(x, batch_norm=False), total, atol=1e-4)
        if kept.any():
            centred = np.where(kept, total - total[kept].mean(), 0)
            np.testing.assert_allclose(gdpo(x), centred / (centred[kept].std() + 1e-6), atol=2e-3, rtol=1e-3)


def test_gdpo_does_not_depend_on_the_scale_of_a_component():
    rng = np.random.default_rng(2)
    for _ in range(100):
        x = random_inputs(rng)
        scaled = OutcomeInputs(x.rewards, x.group, x.lengths, x.kept, x.components * torch.tensor([[1000.0], [1.0]]), x.weights)
        np.testing.assert_allclose(gdpo(x, batch_norm=False), gdpo(scaled, batch_norm=False), atol=2e-3)


def test_gdpo_tells_samples_apart_whose_sums_agree():
    x = OutcomeInputs(
        torch.ones(4),
        torch.zeros(4, dtype=torch.int64),
        torch.ones(4, dtype=torch.int64),
        torch.ones(4, dtype=torch.bool),
        torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 1.0, 1.0]]),
        torch.ones(2),
    )
    assert grpo(x).abs().max() == 0
    assert gdpo(x)[0].item() == pytest.approx(0, abs=1e-5) and torch.isfinite(gdpo(x)).all()
    x.weights[0] = 2.0
    assert gdpo(x)[0] > gdpo(x)[1]


def test_pareto_weights_attain_the_least_norm_over_the_simplex():
    rng = np.random.default_rng(3)
    grid = [np.array(p) / 20 for p in itertools.product(range(21), repeat=3) if sum(p) == 20]
    for _ in range(300):
        a = rng.normal(size=3) + rng.choice([-2, 0, 2])
        c = pareto_weights(torch.from_numpy(a)).numpy()
        assert c.min() >= 0 and c.sum() == pytest.approx(1)
        best = min(abs(a @ p) for p in grid)
        s = 0.0 if a.min() <= 0 <= a.max() else min(a, key=abs)
        assert abs(a @ c) == pytest.approx(abs(s), abs=1e-12) and abs(a @ c) <= best + 1e-12
    assert pareto_weights(torch.zeros(3)).tolist() == pytest.approx([1 / 3] * 3)
    assert pareto_weights(torch.tensor([1.0, 1.0, 2.0])).tolist() == [0.5, 0.5, 0.0]
    assert pareto_weights(torch.tensor([7.0])).tolist() == [1.0]


@pytest.mark.parametrize("mode", ["weights", "token", "scalar"])
def test_pama_never_punishes_and_equals_its_definition(mode):
    rng = np.random.default_rng(4)
    for _ in range(200):
        x = random_inputs(rng, components=int(rng.integers(1, 4)))
        kept, group = x.kept.numpy(), x.group.numpy()
        noon = np.stack([np.maximum(by_hand(c, kept, group), 0) for c in x.components.numpy()])
        a = np.array([row[kept].mean() if kept.any() else 0.0 for row in noon])
        got = pama(x, mode=mode).numpy()
        assert got.min(initial=0) >= 0
        if mode == "weights":
            expected = (pareto_weights(torch.from_numpy(a)).numpy()[:, None] * noon).sum(0)
        else:
            expected = noon.min(0) if mode == "token" else np.full(len(kept), a.min())
        np.testing.assert_allclose(got, np.where(kept, expected, 0), atol=1e-5)


def test_pama_weighed_before_the_clip_lets_opposed_objectives_meet():
    x = OutcomeInputs(
        torch.zeros(3),
        torch.tensor([0, 0, 0]),
        torch.ones(3, dtype=torch.int64),
        torch.tensor([True, True, True]),
        torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]),
        torch.ones(2),
    )
    both = pama(x, before_clip=True)  # centred means are 0: uniform weights
    assert both[0] == both[2] > 0 == both[1]
