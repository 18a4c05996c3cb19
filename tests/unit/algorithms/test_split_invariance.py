"""The loss and its gradient do not depend on how a batch is split over micro-batches and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rayrl.algorithms import registry
from rayrl.algorithms.correction import correction_weights
from rayrl.algorithms.kl import penalty
from rayrl.algorithms.losses import LossInputs
from rayrl.algorithms.metrics import is_maximum
from rayrl.algorithms.reductions import denominator, reduce
from rayrl.algorithms.values import value_loss

MAX_TOKENS = 12


class Batch:
    """A tiny policy, ``log pi = -softplus(features @ theta)``, and everything its loss needs."""

    def __init__(self, rng: np.random.Generator, random_mask, tensor) -> None:
        rows, width = int(rng.integers(1, 13)), int(rng.integers(1, MAX_TOKENS + 1))
        self.mask = random_mask(rng, rows, width)
        self.features = tensor(rng, rows, width, 4)
        self.theta = tensor(rng, 4).requires_grad_()
        now = self.logprobs(slice(None)).detach()
        self.prox, self.behavior, self.ref = (now + tensor(rng, rows, width, scale=0.3) for _ in range(3))
        self.advantages = tensor(rng, rows, width)
        self.level = str(rng.choice(["token", "sequence"]))

    def logprobs(self, rows) -> Tensor:
        return -torch.nn.functional.softplus(self.features[rows] @ self.theta)

    def contribution(self, loss: str, reduction: str, rows) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What one micro-batch of ``rows``, padded to its own longest row, adds to the loss, the denominator and the metrics."""
        mask = self.mask[rows]
        width = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 0
        cut = lambda x: x[rows][:, :width]
        mask, logprobs = mask[:, :width], self.logprobs(rows)[:, :width]
        weights, correction = correction_weights("truncated", cut(self.prox), cut(self.behavior), mask, level=self.level)
        inputs = LossInputs(logprobs, cut(self.prox), cut(self.behavior), cut(self.advantages), mask, weights)
        out = registry.load(registry.LOSSES, loss, "loss")(inputs)
        token_loss = out.token_loss + 0.1 * penalty("k3", logprobs, cut(self.ref), mask)
        part = reduce(reduction, token_loss, mask, MAX_TOKENS)
        return part.sum, part.denominator, out.metrics | correction

    def gradient(self, loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, self.theta)[0]


def random_partition(rng: np.random.Generator, rows: int) -> list[np.ndarray]:
    """Rows dealt to 1–4 ranks and there to 1–4 micro-batches in random order; some are empty."""
    ranks = rng.integers(0, rng.integers(1, 5), size=rows)
    micro = rng.integers(0, rng.integers(1, 5), size=rows)
    return [rng.permutation(np.flatnonzero((ranks == r) & (micro == m))) for r in range(4) for m in range(4)]


@pytest.mark.parametrize("reduction", registry.REDUCTIONS)
@pytest.mark.parametrize("loss", registry.TOKEN_LOSSES)
def test_any_micro_batch_and_rank_split_gives_the_same_loss_gradient_and_metrics(loss, reduction, random_mask, tensor):
    rng = np.random.default_rng(0)
    for _ in range(30):
        batch = Batch(rng, random_mask, tensor)
        total, _, metrics = batch.contribution(loss, reduction, slice(None))
        bottom = denominator(reduction, batch.mask.sum(-1).numpy(), MAX_TOKENS)
        whole = total / bottom
        parts = [batch.contribution(loss, reduction, rows) for rows in random_partition(rng, len(batch.mask))]
        split = sum(part for part, _, _ in parts) / bottom
        torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-13)
        # Micro-batches are accumulated as gradients, one backward pass each.
        accumulated = sum(batch.gradient(part / bottom) for part, _, _ in parts)
        torch.testing.assert_close(accumulated, batch.gradient(whole), rtol=1e-11, atol=1e-12)
        assert max(float(sum(d for _, d, _ in parts)), 1.0) == bottom
        for key, value in metrics.items():
            of_parts = torch.stack([m[key] for _, _, m in parts])
            torch.testing.assert_close(of_parts.max() if is_maximum(key) else of_parts.sum(), value, rtol=1e-12, atol=1e-12)


def test_reductions_equal_loops_over_trajectories(random_mask, tensor):
    rng = np.random.default_rng(1)
    for _ in range(100):
        rows, width = int(rng.integers(1, 7)), int(rng.integers(1, 9))
        mask, loss = random_mask(rng, rows, width), tensor(rng, rows, width)
        trained = [loss[b][mask[b]] for b in range(rows) if mask[b].any()]
        tokens = sum(len(x) for x in trained)
        expected = {
            "token_mean": sum(x.sum() for x in trained) / max(tokens, 1),
            "sequence_mean": sum(x.mean() for x in trained) / max(len(trained), 1),
            "fixed_length": sum(x.sum() for x in trained) / max(len(trained) * 50, 1),
        }
        for name, value in expected.items():
            got = reduce(name, torch.where(mask, loss, torch.nan), mask, 50).sum / denominator(name, mask.sum(-1).tolist(), 50)
            assert float(got) == pytest.approx(float(value), rel=1e-12, abs=1e-14)


def test_reductions_agree_on_trajectories_of_full_length(tensor):
    loss, mask = tensor(np.random.default_rng(2), 5, 7), torch.ones(5, 7, dtype=torch.bool)
    values = [reduce(name, loss, mask, 7).sum / denominator(name, [7] * 5, 7) for name in registry.REDUCTIONS]
    assert values[0].item() == pytest.approx(values[1].item()) == pytest.approx(values[2].item())


@pytest.mark.parametrize("reduction", registry.REDUCTIONS)
@pytest.mark.parametrize("lengths", [[], [0, 0, 0]])
def test_a_batch_without_action_tokens_has_denominator_1(reduction, lengths):
    assert denominator(reduction, lengths, MAX_TOKENS) == 1.0


@pytest.mark.parametrize("reduction", registry.REDUCTIONS)
def test_padding_rows_count_nowhere(reduction, tensor):
    mask = torch.tensor([[True, True, False], [False, False, False]])
    part = reduce(reduction, tensor(np.random.default_rng(3), 2, 3), mask, 3)
    assert part.denominator == reduce(reduction, torch.zeros(1, 3), mask[:1], 3).denominator == denominator(reduction, [2], 3)


@pytest.mark.parametrize("reduction", registry.REDUCTIONS)
def test_value_loss_is_split_invariant_too(reduction, random_mask, tensor):
    rng = np.random.default_rng(4)
    for _ in range(20):
        batch = Batch(rng, random_mask, tensor)
        part = lambda rows, b=batch: (
            reduce(
                reduction, value_loss(b.logprobs(rows), b.prox[rows], b.ref[rows], b.mask[rows], 0.2).token_loss, b.mask[rows], MAX_TOKENS
            ).sum
        )
        split = sum(batch.gradient(part(rows)) for rows in random_partition(rng, len(batch.mask)))
        torch.testing.assert_close(split, batch.gradient(part(slice(None))), rtol=1e-11, atol=1e-12)
