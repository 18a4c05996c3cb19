"""KL divergence from the reference policy per token, and the policy's entropy.

With ``x = log(ref / pi)`` of a token sampled from ``pi``, Schulman's estimators ("Approximating KL divergence", 2020) of
``KL(pi || ref)`` are ``k1 = -x`` (unbiased, high variance, may be negative), ``k2 = x^2 / 2`` (biased, low variance) and
``k3 = e^x - 1 - x`` (unbiased, never negative).

A good estimate of the value is not one of the gradient. On policy, in expectation over tokens sampled from ``pi``:

- differentiating k1 gives 0, because ``E[grad log pi] = 0``: as a loss it does nothing;
- differentiating k2 gives ``E[log(pi / ref) grad log pi]``, which is the gradient of ``KL(pi || ref)``;
- differentiating k3 gives ``E[(1 - ref / pi) grad log pi]``, which is the gradient of ``KL(ref || pi)``, and agrees with k2's to
  first order in the distance. It is what GRPO (arXiv 2402.03300 eq. 4) trains with.

So `penalty` pairs the value of k1 with the gradient of k2. Legend of shapes: ``B`` trajectories, ``T`` padded length, ``V`` vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayrl.algorithms.ratios import k3, log_ratio
from rayrl.errors import ConfigError


@torch.no_grad()
def estimate(estimator: str, logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """float[B, T] without gradient, 0 outside the mask: for KL in the reward, and for metrics. Raises `ConfigError`."""
    return penalty(estimator, logprobs, ref_logprobs, action_mask)


def penalty(estimator: str, logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """float[B, T], 0 outside the mask: KL as a loss term, with the gradient that the module docstring states. Raises `ConfigError`.

    Log-ratios beyond ±20 are clamped and have no gradient.
    """
    x = log_ratio(ref_logprobs, logprobs, action_mask)
    k2 = x.square() / 2
    if estimator == "k1":
        return -x.detach() + (k2 - k2.detach())
    if estimator == "k2":
        return k2
    if estimator == "k3":
        return k3(x)
    raise ConfigError(f"algorithm.kl.estimator is {estimator!r}", "use k1, k2 or k3")


def entropy(logits: Tensor, chunk: int = 1024) -> Tensor:
    """Entropy in nats, float32[...] (float64 for float64 logits), of the distributions ``softmax(logits[..., V])``, with gradient.

    Upcasts and normalises ``chunk`` positions at a time: the full-precision copy is ``chunk * V`` numbers, not the whole batch.
    Tokens with logit -inf count as probability 0.
    """
    positions = logits.reshape(-1, logits.shape[-1])
    parts = [_entropy(part) for part in positions.split(chunk)]
    return torch.cat(parts).reshape(logits.shape[:-1])


def _entropy(logits: Tensor) -> Tensor:
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 * -inf would be NaN
    return -(logprobs.exp() * finite).sum(-1)
