"""Losses against closed forms, enumeration and torch's own; any split of a batch gives the same gradient."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn import functional

from rayrl.reward_models import losses

SEEDS = range(200)


def draw(seed: int, *shape: int, scale: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, shape))


def test_bradley_terry_is_the_cross_entropy_of_a_softmax_over_both_scores():
    for seed in SEEDS:
        scores = draw(seed, 7, 2).requires_grad_()
        rng = np.random.default_rng(seed)
        preference = torch.from_numpy(rng.choice([0.0, 0.5, 1.0, 0.3], 7))
        weights = torch.from_numpy(rng.uniform(0, 2, 7))
        got = losses.bradley_terry(scores[:, 0], scores[:, 1], preference, weights)
        target = torch.stack([preference, 1 - preference], 1)
        expected = (weights * -(target * torch.log_softmax(scores, 1)).sum(1)).sum() / weights.sum()
        torch.testing.assert_close(got.mean, expected)
        torch.testing.assert_close(torch.autograd.grad(got.mean, scores), torch.autograd.grad(expected, scores))


def test_a_tie_pulls_two_scores_together_and_is_no_preference():
    a, b = torch.tensor([3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    losses.bradley_terry(a, b, torch.tensor([0.5])).mean.backward()
    assert a.grad.item() == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item() - 0.5) and b.grad.item() == -a.grad.item()


def test_bradley_terry_does_not_overflow():
    a, b = torch.tensor([1e4]), torch.tensor([-1e4])
    assert losses.bradley_terry(a, b, torch.tensor([0.0])).mean.item() == pytest.approx(2e4)
    assert losses.bradley_terry(a, b, torch.tensor([1.0])).mean.item() == 0.0


def test_davidson_has_its_three_probabilities_and_becomes_bradley_terry_without_ties():
    for seed in SEEDS:
        a, b, log_nu = draw(seed, 3), draw(seed + 1000, 3), draw(seed + 2000, 1)[0]
        nu, strength = log_nu.exp(), (a.exp() + b.exp() + log_nu.exp() * ((a + b) / 2).exp())
        expected = -(torch.stack([a.exp()[0] / strength[0], nu * ((a + b) / 2).exp()[1] / strength[1], b.exp()[2] / strength[2]]).log())
        preference = torch.tensor([1.0, 0.5, 0.0])
        torch.testing.assert_close(losses.davidson(a, b, preference, log_nu).mean, expected.mean())
        decided = torch.tensor([1.0, 0.0, 1.0])
        torch.testing.assert_close(
            losses.davidson(a, b, decided, torch.tensor(-60.0, dtype=a.dtype)).mean, losses.bradley_terry(a, b, decided.double()).mean
        )


def test_classification_is_cross_entropy_with_hard_and_soft_labels():
    for seed in SEEDS:
        logits, labels = draw(seed, 9, 4), torch.from_numpy(np.random.default_rng(seed).integers(0, 4, 9))
        torch.testing.assert_close(losses.classification(logits, labels).mean, functional.cross_entropy(logits, labels))
        balance = draw(seed + 1, 4).abs()
        torch.testing.assert_close(
            losses.classification(logits, labels, class_weights=balance).mean, functional.cross_entropy(logits, labels, balance)
        )
        soft = draw(seed + 2, 9, 4).softmax(1)
        torch.testing.assert_close(losses.classification(logits, soft).mean, functional.cross_entropy(logits, soft))


def test_regression_is_half_the_squared_error_and_linear_beyond_the_huber_distance():
    predicted, target = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([1.0, -3.0, 0.0])
    assert losses.regression(predicted, target).sum.item() == pytest.approx(0.5 * (1 + 9 + 25))
    assert losses.regression(predicted, target, huber=2.0).sum.item() == pytest.approx(0.5 + 2 * (3 - 1) + 2 * (5 - 1))


def ranking_probability(scores: np.ndarray, order: tuple[int, ...]) -> float:
    """Drawing without replacement, written out."""
    left, probability = list(range(len(scores))), 1.0
    for item in order:
        probability *= np.exp(scores[item]) / sum(np.exp(scores[i]) for i in left)
        left.remove(item)
    return probability


def test_plackett_luce_agrees_with_drawing_without_replacement_and_sums_to_one_over_all_rankings():
    for seed in range(30):
        scores = draw(seed, 4)
        total = 0.0
        for order in permutations(range(4)):
            got = losses.plackett_luce(scores[None], torch.tensor([order])).mean.item()
            assert got == pytest.approx(-np.log(ranking_probability(scores.numpy(), order)), abs=1e-9)
            total += np.exp(-got)
        assert total == pytest.approx(1.0)


def test_plackett_luce_of_two_is_bradley_terry_and_ignores_items_that_were_not_ranked():
    scores = draw(1, 5, 3).requires_grad_()
    loss = losses.plackett_luce(scores, torch.tensor([[2, 0, -1]] * 5)).mean
    torch.testing.assert_close(loss, losses.bradley_terry(scores[:, 2], scores[:, 0], torch.ones(5)).mean)
    gradient = torch.autograd.grad(loss, scores)[0]
    assert (gradient[:, 1] == 0).all() and torch.isfinite(gradient).all()


def test_any_split_of_a_batch_gives_the_same_loss():
    first, second, preference, weights = draw(1, 12), draw(2, 12), draw(3, 12).sigmoid(), draw(4, 12).abs()
    whole = losses.bradley_terry(first, second, preference, weights)
    parts = [losses.bradley_terry(*(x[s] for x in (first, second, preference, weights))) for s in (slice(0, 1), slice(1, 8), slice(8, 12))]
    torch.testing.assert_close(sum(p.sum for p in parts) / sum(p.denominator for p in parts), whole.mean)


def test_without_weight_nothing_is_learned_and_nothing_is_nan():
    scores = torch.ones(3, requires_grad=True)
    losses.regression(scores, torch.zeros(3), torch.zeros(3)).mean.backward()
    assert (scores.grad == 0).all()
