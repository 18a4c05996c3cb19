"""RiskPO: bundles, tracked quantiles and shares against their definitions written as loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rayrl.algorithms.credit import OutcomeInputs
from rayrl.algorithms.risk import LEVELS, riskpo


def batch(rng, questions: int, samples: int, *, binary=True, kept=1.0) -> OutcomeInputs:
    n = questions * samples
    rewards = rng.integers(0, 2, n) if binary else rng.normal(size=n)
    return OutcomeInputs(
        torch.from_numpy(rewards.astype(np.float32)),
        torch.from_numpy(np.repeat(np.arange(questions), samples)),
        torch.ones(n, dtype=torch.int64),
        torch.from_numpy(rng.random(n) < kept),
        rng=np.random.default_rng(int(rng.integers(1 << 30))),
    )


def bundles_of(advantages, x, size):
    """Positive evidence of who shared a bundle: in mode uniform its members have one advantage."""
    return advantages.reshape(-1, size, len(x.rewards) // len(set(x.group.tolist())))


@pytest.mark.parametrize("form", ["paper", "repo"])
@pytest.mark.parametrize("seeking", [False, True])
def test_with_one_question_per_bundle_the_advantage_is_the_printed_formula(form, seeking):
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = batch(rng, 4, 5, binary=False)
        q = np.sort(rng.normal(size=19))
        _, got = riskpo({"quantiles": q.tolist()}, x, bundle=1, form=form, seeking=seeking, alpha=0.2, beta=0.8, w=1.5)
        a, b = q[3], q[15]
        for r, value in zip(x.rewards.tolist(), got.tolist(), strict=True):
            g_r, g_c = max(r - a, 0) - max(r - b, 0) + a - b, -max(a - r, 0)
            expected = 1.5 * g_c + g_r if form == "paper" else (1.5 * g_c / 0.2 + g_r / 0.6) / 2.5
            expected += max(r - b, 0) / 0.2 if seeking else 0
            assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert g_r <= 1e-12 and g_c <= 0


def test_each_response_is_in_one_bundle_and_bundles_add_up_their_questions():
    rng = np.random.default_rng(1)
    for _ in range(100):
        x = batch(rng, 10, 4)
        state, got = riskpo(None, x, bundle=5)
        q = np.array(state["quantiles"])
        per_block = [got[x.group // 5 == block] for block in (0, 1)]
        for advantages in per_block:  # 5 questions x 4 responses: 4 bundles of 5, one advantage each
            _, counts = np.unique(advantages.numpy(), return_counts=True)
            assert counts.sum() == 20 and (counts % 5 == 0).all()
        assert (np.diff(q) >= 0).all() and q[0] >= 0 and q[-1] <= 5


def test_first_quantiles_are_empirical_and_later_ones_follow_the_tracker():
    rng = np.random.default_rng(2)
    first = batch(rng, 4, 6, binary=False)
    state, _ = riskpo(None, first, bundle=1)
    np.testing.assert_allclose(state["quantiles"], np.quantile(first.rewards.double().numpy(), LEVELS))
    second = batch(rng, 4, 6, binary=False)
    later, _ = riskpo(state, second, bundle=1, quantile_lr=0.3)
    scores = second.rewards.double().numpy()
    expected = [q + 0.3 * (s - np.mean(scores < q)) for q, s in zip(state["quantiles"], LEVELS, strict=True)]
    np.testing.assert_allclose(later["quantiles"], expected)
    assert json.loads(json.dumps(later)) == later, "the state survives a checkpoint to the last bit"


def test_the_tracker_finds_the_quantiles_of_a_normal_distribution():
    """The page's check: median within .15 and the 20 % quantile within .25 of -.84 after 4000 steps."""
    rng = np.random.default_rng(3)
    state = None
    for _ in range(4000):
        state, _ = riskpo(state, batch(rng, 1, 4, binary=False), bundle=1)
    q = np.array(state["quantiles"])
    assert abs(q[9]) < 0.15 and abs(q[3] + 0.84) < 0.25


def test_all_right_is_silent_and_all_wrong_is_not():
    right = OutcomeInputs(torch.ones(20), torch.arange(5).repeat_interleave(4), torch.ones(20, dtype=torch.int64), torch.ones(20).bool())
    wrong = OutcomeInputs(torch.zeros(20), right.group, right.lengths, right.kept)
    tracked = {"quantiles": np.linspace(0.5, 4.5, 19).tolist()}
    assert riskpo(tracked, right)[1].abs().max() == 0
    assert riskpo(tracked, wrong)[1].max() < 0


@pytest.mark.parametrize("spread", ["uniform", "std", "score", "sum_mean"])
def test_shares_of_a_bundle(spread):
    rng = np.random.default_rng(4)
    for _ in range(200):
        x = batch(rng, 5, 6)
        state = {"quantiles": np.sort(rng.uniform(0, 5, 19)).tolist()}
        uniform = riskpo(state, OutcomeInputs(x.rewards, x.group, x.lengths, x.kept, rng=np.random.default_rng(7)))[1].numpy()
        got = riskpo(state, OutcomeInputs(x.rewards, x.group, x.lengths, x.kept, rng=np.random.default_rng(7)), spread=spread)[1].numpy()
        r, group = x.rewards.numpy(), x.group.numpy()
        assert np.isfinite(got).all()
        if spread == "std":
            std = np.array([r[group == g].std(ddof=1) for g in group])
            np.testing.assert_allclose(got, uniform / np.where(std > 1e-3, std, 1), rtol=1e-5)
        elif spread == "score":
            np.testing.assert_allclose(got, uniform * np.where(r > 0, 0.5, 1.5), rtol=1e-6)
        elif spread == "sum_mean":
            six = len(set(np.round(uniform, 6)))  # shares of a bundle add up to its advantage, so the batch adds up to all bundles
            assert got.sum() == pytest.approx(uniform.sum() / 5, rel=1e-4, abs=1e-4) and six >= 1


def test_what_does_not_fill_a_bundle_is_left_alone():
    rng = np.random.default_rng(5)
    x = batch(rng, 7, 3)
    _, got = riskpo({"quantiles": np.linspace(1, 5, 19).tolist()}, x, bundle=5)
    assert got[15:].abs().max() == 0 < got[:15].abs().max()
    few = batch(rng, 3, 3)
    state, got = riskpo({"quantiles": [1.0] * 19}, few, bundle=5)
    assert got.abs().max() == 0 and state == {"quantiles": [1.0] * 19}
    nothing = OutcomeInputs(few.rewards, few.group, few.lengths, torch.zeros(9, dtype=torch.bool))
    assert riskpo(None, nothing, bundle=1)[0] == {}


def test_samples_that_are_not_kept_are_in_no_bundle():
    rng = np.random.default_rng(6)
    for _ in range(100):
        x = batch(rng, 5, 6, kept=0.6)
        _, got = riskpo({"quantiles": np.linspace(1, 5, 19).tolist()}, x)
        assert got[~x.kept].abs().sum() == 0
        fewest = min(int((x.kept & (x.group == g)).sum()) for g in range(5)) if len(set(x.group[x.kept].tolist())) == 5 else 0
        assert int((got != 0).sum()) <= 5 * fewest or fewest == 0
