"""Off-policy weights against numpy, and their promises: bounded, finite, without gradient, unbiased where they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayrl.algorithms.correction import correction_weights, mismatch_metrics, ratio_denominator
from rayrl.errors import ConfigError

MODES = ["none", "truncated", "masked", "decoupled"]
LEVELS = ["token", "sequence"]


def brute_force(mode, prox, behavior, mask, cap, floor, level):
    out = np.ones(mask.shape)
    for b in range(mask.shape[0]):
        deltas = (prox - behavior)[b]
        for t in np.flatnonzero(mask[b]):
            w = np.exp(np.clip(deltas[mask[b]].sum() if level == "sequence" else deltas[t], -20, 20))
            if mode == "truncated":
                out[b, t] = min(w, cap)
            elif mode == "masked":
                out[b, t] = w if floor <= w <= cap else 0
            elif mode == "decoupled":
                out[b, t] = w if w <= cap else 0
    return out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_weights_equal_a_loop_over_tokens(mode, level, random_mask, tensor):
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = random_mask(rng, 4, 7)
        prox, behavior = tensor(rng, 4, 7), tensor(rng, 4, 7)
        cap, floor = float(rng.uniform(1, 3)), float(rng.uniform(0, 1))
        weights, metrics = correction_weights(mode, prox, behavior, mask, cap, floor, level)
        expected = brute_force(mode, prox.numpy(), behavior.numpy(), mask.numpy(), cap, floor, level)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)
        if mode != "none":
            inside = torch.from_numpy(expected)[mask]
            torch.testing.assert_close(metrics["correction/weight"], inside.sum())
            torch.testing.assert_close(metrics["correction/weight_sq"], inside.square().sum())
            raw = brute_force("decoupled", prox.numpy(), behavior.numpy(), mask.numpy(), np.inf, 0, level)
            assert metrics["correction/changed"] == (expected != raw)[mask.numpy()].sum()
            assert metrics["correction/ratio_max"].item() == pytest.approx(raw[mask.numpy()].max(initial=0))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_on_policy_every_mode_is_the_identity(mode, level, random_mask, tensor):
    rng = np.random.default_rng(1)
    logprobs = tensor(rng, 5, 6)
    weights, _ = correction_weights(mode, logprobs, logprobs.clone(), random_mask(rng, 5, 6), level=level)
    assert weights.eq(1).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_weights_are_finite_bounded_and_without_gradient(mode, level):
    infinite = float("inf")
    prox = torch.tensor([[0.0, -1e30, -infinite, -infinite, torch.nan, -1.0]], requires_grad=True)
    behavior = torch.tensor([[-1e30, 0.0, -infinite, 0.0, 0.0, -1.0]])
    weights, metrics = correction_weights(mode, prox, behavior, torch.ones(1, 6, dtype=torch.bool), cap=2.0, level=level)
    assert weights.isfinite().all() and weights.min() >= 0 and weights.max() <= 2
    assert not weights.requires_grad
    assert all(value.isfinite() for value in metrics.values())
    if mode != "none":
        assert metrics["correction/undefined"] == (2 if level == "token" else 6)
        assert weights[0, 2] == weights[0, 4] == 0


@pytest.mark.parametrize("mode", ["truncated", "masked", "decoupled"])
def test_a_sequence_ratio_beyond_float32_stays_a_number(mode):
    prox, mask = torch.full((1, 50), 15.0), torch.ones(1, 50, dtype=torch.bool)
    weights, metrics = correction_weights(mode, prox, torch.zeros(1, 50), mask, level="sequence")
    assert weights.isfinite().all() and all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("mode", ["truncated", "masked", "decoupled"])
def test_nothing_outside_the_mask_is_read(mode, random_mask, tensor):
    rng = np.random.default_rng(2)
    mask = random_mask(rng, 5, 8)
    prox, behavior = tensor(rng, 5, 8), tensor(rng, 5, 8)
    for level in LEVELS:
        clean, _ = correction_weights(mode, prox, behavior, mask, level=level)
        poisoned, _ = correction_weights(mode, torch.where(mask, prox, torch.nan), behavior, mask, level=level)
        torch.testing.assert_close(poisoned, clean)


def test_untruncated_weights_make_the_expectation_that_of_the_prox_policy():
    """Exact sum over a small vocabulary: ``E_behaviour[w f] = E_prox[f]`` when the cap never binds; truncation only shrinks it."""
    rng = np.random.default_rng(3)
    behavior, prox = (torch.from_numpy(rng.normal(size=(1, 10))).log_softmax(-1) for _ in range(2))
    mask, f = torch.ones(1, 10, dtype=torch.bool), torch.from_numpy(rng.uniform(size=(1, 10)))
    target = (prox.exp() * f).sum()
    free, _ = correction_weights("decoupled", prox, behavior, mask, cap=1e9)
    torch.testing.assert_close((behavior.exp() * free * f).sum(), target)
    truncated, _ = correction_weights("truncated", prox, behavior, mask, cap=1.2)
    assert (behavior.exp() * truncated * f).sum() < target


def test_the_ratio_is_taken_against_behaviour_only_without_correction():
    prox, behavior = torch.zeros(1, 2), torch.ones(1, 2)
    assert ratio_denominator("none", None, behavior) is behavior
    assert all(ratio_denominator(mode, prox, behavior) is prox for mode in MODES[1:])
    with pytest.raises(ValueError, match="start of the step"):
        ratio_denominator("truncated", None, behavior)


def test_unknown_modes_and_levels_are_refused():
    x, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ConfigError, match="mode"):
        correction_weights("trunkated", x, x, mask)
    with pytest.raises(ConfigError, match="level"):
        correction_weights("truncated", x, x, mask, level="turn")


def test_mismatch_metrics_equal_numpy_and_estimate_the_kl(random_mask, tensor):
    rng = np.random.default_rng(4)
    for _ in range(50):
        mask = random_mask(rng, 4, 6)
        learner, behavior = tensor(rng, 4, 6), tensor(rng, 4, 6)
        got = mismatch_metrics(torch.where(mask, learner, torch.nan), behavior, mask)
        d = (learner - behavior)[mask].numpy()
        assert got["mismatch/abs"].item() == pytest.approx(np.abs(d).sum())
        assert got["mismatch/abs_max"].item() == pytest.approx(np.abs(d).max(initial=0))
        assert got["mismatch/kl_k1"].item() == pytest.approx(-d.sum())
        assert got["mismatch/kl_k3"].item() == pytest.approx((np.exp(d) - 1 - d).sum())


def test_mismatch_of_equal_policies_is_exactly_zero(tensor):
    x = tensor(np.random.default_rng(5), 3, 4)
    assert all(value == 0 for value in mismatch_metrics(x, x.clone(), torch.ones(3, 4, dtype=torch.bool)).values())


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 3)])
def test_empty_batches_have_metrics_of_zero(shape):
    x, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for level in LEVELS:
        weights, metrics = correction_weights("masked", x, x, mask, level=level)
        assert weights.shape == shape and weights.eq(1).all() and all(v == 0 for v in metrics.values())
    assert all(v == 0 for v in mismatch_metrics(x, x, mask).values())
