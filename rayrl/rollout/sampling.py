"""The sampled distribution, in plain torch: temperature, min-p, top-k, top-p (in this order, as vLLM applies them), one row per request.

Legend: ``B`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rayrl.types import SamplingParams


def processed_logprobs(logits_BV: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """float32[B, V]: log-probs of the distribution that each row is drawn from; -inf for what it can never draw.

    A greedy row (temperature 0) keeps the log-probs at temperature 1 of all tokens: its choice is certain, but its log-probs
    stay comparable with the learner's. Top-p (Holtzman et al. 2020, section 3.1) keeps the smallest set of most likely
    tokens whose mass reaches p; top-k keeps ties of the k-th.
    """
    logits = logits_BV.to(torch.float32)

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    greedy = [p.temperature == 0 for p in params]
    logits = logits / column([1.0 if g else p.temperature for p, g in zip(params, greedy, strict=True)])
    min_p = [0.0 if g else p.min_p for p, g in zip(params, greedy, strict=True)]
    if any(min_p):
        probs = logits.softmax(-1)
        logits = logits.masked_fill(probs < column(min_p) * probs.amax(-1, keepdim=True), -torch.inf)
    vocab = logits.shape[-1]
    top_k = [vocab if g or p.top_k <= 0 else min(p.top_k, vocab) for p, g in zip(params, greedy, strict=True)]
    top_p = [1.0 if g else p.top_p for p, g in zip(params, greedy, strict=True)]
    if min(top_k) < vocab or min(top_p) < 1:
        descending, order = logits.sort(-1, descending=True)
        kth = descending.gather(-1, column(top_k).long() - 1)
        descending = descending.masked_fill(descending < kth, -torch.inf)
        mass_before = descending.softmax(-1).cumsum(-1).roll(1, -1)
        mass_before[:, 0] = 0.0  # the most likely token always stays
        outside = (mass_before >= column(top_p)) & (column(top_p) < 1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, order, descending.masked_fill(outside, -torch.inf))
    return logits.log_softmax(-1)


def draw(
    logprobs_BV: torch.Tensor, params: Sequence[SamplingParams], shared: torch.Generator, own: Sequence[torch.Generator | None]
) -> torch.Tensor:
    """int64[B]: one token per row; the most likely one where greedy. Rows without a generator of their own use ``shared``.

    An exponential race (Gumbel-max trick): the token with the largest p / e, e ~ Exp(1), is a draw from p.
    """
    noise = torch.empty_like(logprobs_BV).exponential_(generator=shared)
    for row, generator in enumerate(own):
        if generator is not None:
            noise[row].exponential_(generator=generator)
    greedy = torch.tensor([p.temperature == 0 for p in params], device=logprobs_BV.device)
    return torch.where(greedy, logprobs_BV.argmax(-1), (logprobs_BV - noise.log()).argmax(-1))
