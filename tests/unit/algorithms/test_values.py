"""The critic's loss against a loop, and explained variance against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayrl.algorithms.values import explained_variance, value_loss


@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_value_loss_equals_a_loop_over_tokens(clip, random_mask, tensor):
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = random_mask(rng, 3, 6)
        values, old, returns = (tensor(rng, 3, 6) for _ in range(3))
        out = value_loss(values, old, torch.where(mask, returns, torch.nan), mask, clip)
        clipped = 0
        for b in range(3):
            for t in range(6):
                expected = 0.0
                if mask[b, t]:
                    v, o, r = (float(x[b, t]) for x in (values, old, returns))
                    expected = (v - r) ** 2 / 2
                    bounded = (o + min(max(v - o, -clip), clip) - r) ** 2 / 2
                    if clip and bounded > expected:
                        expected, clipped = bounded, clipped + 1
                assert out.token_loss[b, t].item() == pytest.approx(expected, rel=1e-12)
        assert out.metrics["value/clip"] == clipped


def test_a_value_that_ran_away_beyond_the_clip_has_no_gradient():
    values = torch.tensor([[1.0, 1.0, 1.0]], requires_grad=True)
    old, returns = torch.zeros(1, 3), torch.tensor([[0.5, 2.0, 1.0]])
    loss = value_loss(values, old, returns, torch.ones(1, 3, dtype=torch.bool), clip=0.2).token_loss
    # |1 - 0.5| > |0.2 - 0.5|: unclipped, pulled back. |1 - 2| < |0.2 - 2|: clipped. |1 - 1| < |0.2 - 1|: clipped.
    assert torch.autograd.grad(loss.sum(), values)[0].tolist() == [[0.5, 0.0, 0.0]]


def test_nothing_outside_the_mask_is_read_and_targets_have_no_gradient(random_mask, tensor):
    rng = np.random.default_rng(1)
    mask = random_mask(rng, 4, 5)
    values = torch.where(mask, tensor(rng, 4, 5), torch.nan).requires_grad_()
    old, returns = (torch.where(mask, tensor(rng, 4, 5), torch.nan).requires_grad_() for _ in range(2))
    loss = value_loss(values, old, returns, mask, 0.2).token_loss.sum()
    grads = torch.autograd.grad(loss, [values, old, returns], allow_unused=True)
    assert grads[0].isfinite().all() and grads[1] is None and grads[2] is None


def means(metrics, mask):
    return {key: float(value) / int(mask.sum()) for key, value in metrics.items()}


def test_explained_variance_equals_numpy(random_mask, tensor):
    rng = np.random.default_rng(2)
    for _ in range(50):
        mask = random_mask(rng, 5, 6, allow_empty=False)
        values, returns = tensor(rng, 5, 6), tensor(rng, 5, 6)
        metrics = means(value_loss(values, values, returns, mask, 0.0).metrics, mask)
        v, r = values[mask].numpy(), returns[mask].numpy()
        assert explained_variance(metrics) == pytest.approx(1 - np.var(r - v) / np.var(r), rel=1e-9)


def test_explained_variance_of_constant_returns_is_zero():
    ones = torch.ones(1, 4)
    metrics = means(value_loss(ones * 2, ones, ones, ones.bool(), 0.0).metrics, ones.bool())
    assert explained_variance(metrics) == 0.0
