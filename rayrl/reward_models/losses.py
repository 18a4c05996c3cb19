"""What a reward model is fitted to: pure losses, tensors in, a weighted sum and its denominator out.

Any split of a batch into parts gives the same gradient: add the sums, divide by the sum of the denominators.

Legend of shapes: ``B`` examples, ``C`` classes, ``K`` items of a list.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class LossSum(NamedTuple):
    """A loss before it is divided."""

    sum: Tensor
    """Scalar with gradient: weighted sum over the examples."""
    denominator: Tensor
    """Scalar: sum of the weights."""

    @property
    def mean(self) -> Tensor:
        """The weighted mean; 0 where all weights are 0."""
        return self.sum / self.denominator.clamp_min(torch.finfo(self.denominator.dtype).tiny)


def bradley_terry(first: Tensor, second: Tensor, preference: Tensor, weights: Tensor | None = None) -> LossSum:
    """Cross entropy of ``P(first better) = sigmoid(first - second)`` with soft targets (Bradley and Terry 1952).

    Args:
        first, second: float[B], scores.
        preference: float[B] in [0, 1]: 1 first is better, 0 second is, 1/2 a tie; anything between is a soft label.
        weights: float[B] or None for ones.
    """
    margin = first - second
    return _weighted(-preference * functional.logsigmoid(margin) - (1 - preference) * functional.logsigmoid(-margin), weights)


def davidson(first: Tensor, second: Tensor, preference: Tensor, log_nu: Tensor, weights: Tensor | None = None) -> LossSum:
    """Bradley–Terry with a third outcome (Davidson 1970, equation 2.3), for annotators whose ties mean something.

    ``P(first) : P(second) : P(tie) = exp(first) : exp(second) : nu * exp((first + second) / 2)``.

    Args:
        first, second: float[B], scores.
        preference: float[B], each 0, 1/2 or 1.
        log_nu: scalar, how readily this annotator calls a tie; may be trained. ``nu -> 0`` is Bradley–Terry.
    """
    logits = torch.stack([first, second, log_nu + (first + second) / 2], dim=-1)
    outcome = torch.where(preference > 0.75, 0, torch.where(preference < 0.25, 1, 2))
    return _weighted(functional.cross_entropy(logits, outcome, reduction="none"), weights)


def classification(logits: Tensor, targets: Tensor, weights: Tensor | None = None, class_weights: Tensor | None = None) -> LossSum:
    """Cross entropy.

    Args:
        logits: float[B, C].
        targets: int64[B] classes, or float[B, C] probabilities (soft labels).
        weights: float[B]; class_weights: float[C], factor of each class (of each class's share, with soft labels).
    """
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, logits.shape[-1]).to(logits.dtype)
    if class_weights is not None:
        targets = targets * class_weights
    terms = -(targets * logits.log_softmax(-1)).sum(-1)
    weights = torch.ones_like(terms) if weights is None else weights
    return LossSum((terms * weights).sum(), (targets.sum(-1) * weights).sum())


def regression(predicted: Tensor, targets: Tensor, weights: Tensor | None = None, *, huber: float | None = None) -> LossSum:
    """Half squared error of float[B]; with ``huber`` linear beyond that distance (Huber 1964)."""
    if huber is None:
        return _weighted(0.5 * (predicted - targets).square(), weights)
    return _weighted(functional.huber_loss(predicted, targets, reduction="none", delta=huber), weights)


def gaussian(mean: Tensor, raw: Tensor, targets: Tensor, weights: Tensor | None = None) -> LossSum:
    """Negative log-likelihood of float[B] targets under ``N(mean, deviation(raw)^2)``, without the constant (Nix and Weigend 1994).

    Reward-robust RLHF (arXiv 2409.15360) describes a squared error of ``mean + sigma eps`` instead, whose expectation is least at
    sigma 0 whatever the data: here a head that is often wrong says so.
    """
    sigma = deviation(raw)
    return _weighted(sigma.log() + 0.5 * ((targets - mean) / sigma).square(), weights)


def deviation(raw: Tensor) -> Tensor:
    """A standard deviation of at least 1e-2 from an unbounded output."""
    return functional.softplus(raw) + 1e-2


def plackett_luce(scores: Tensor, order: Tensor, weights: Tensor | None = None) -> LossSum:
    """Negative log-likelihood of rankings (Plackett 1975; Luce 1959): items are drawn best first, without replacement.

    Args:
        scores: float[B, K].
        order: int64[B, K], indices into the K items, best first; -1 at the end of a row where fewer than K were ranked.
            Items that no place names are no part of that list.
    """
    ranked = order >= 0
    sorted_scores = scores.gather(1, order.clamp_min(0)).masked_fill(~ranked, -torch.inf)
    # log of the sum over an item and everything ranked after it
    remaining = sorted_scores.flip(1).logcumsumexp(1).flip(1)
    terms = torch.where(ranked, remaining, 0.0) - torch.where(ranked, sorted_scores, 0.0)
    return _weighted(terms.sum(1), weights)


def centring(scores: Tensor, weights: Tensor | None = None) -> LossSum:
    """Squared scores: a small multiple keeps the free constant of a ranking loss near 0 (Coste et al. 2023 use 0.001)."""
    return _weighted(scores.square(), weights)


def _weighted(terms: Tensor, weights: Tensor | None) -> LossSum:
    weights = torch.ones_like(terms) if weights is None else weights
    return LossSum((terms * weights).sum(), weights.sum())
