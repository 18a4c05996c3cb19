"""Causal attention for training, over rows padded on the right or over packed sequences.

Padded rows need no mask: nothing looks right, where the padding is. Of packed sequences each attends to itself alone. Work grows
with the sum of squared segment lengths, not with the square of their sum, on any device: on a GPU in half precision by one
variable-length kernel, elsewhere by one fused call per segment, never by a dense block-diagonal mask.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rayrl.errors import ModelError
from rayrl.learner import cpu_attention

CAUSAL = "rayrl_causal"
"""Name under which Hugging Face models find `causal` (``attn_implementation``)."""


def causal(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    segments: list[int] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that Hugging Face models call: ``query`` is [B, heads, T, D], the output [B, T, heads, D].

    ``segments`` are the lengths of packed sequences and sum to T of the only row; None are padded rows. Grouped-query heads are
    expanded inside the kernel. Raises `ModelError` for scores that are capped or have sinks, which no fused kernel here computes.
    """
    if softcap is not None or s_aux is not None:
        raise ModelError(
            "the model caps its attention scores or has attention sinks, which fused attention would leave out silently",
            "set learner.attention=eager and learner.packing=false",
        )
    if segments is None:
        return _fused(query, key, value, scaling, sliding_window).transpose(1, 2), None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _variable_length(query, key, value, segments, scaling, sliding_window), None
    parts = zip(query.split(segments, 2), key.split(segments, 2), value.split(segments, 2), strict=True)
    return torch.cat([_fused(q, k, v, scaling, sliding_window) for q, k, v in parts], dim=2).transpose(1, 2), None


def _fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, sliding_window: int | None) -> torch.Tensor:
    """[B, heads, T, D]."""
    band, T = None, query.shape[2]
    if sliding_window is not None and sliding_window < T:
        ones = torch.ones(T, T, dtype=torch.bool, device=query.device)
        band = ones.tril() & ones.triu(1 - sliding_window)
    elif cpu_attention.suits(query) and torch.is_grad_enabled():
        return cpu_attention.causal_attention(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=grouped)


def _variable_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: list[int], scaling: float | None, sliding_window: int | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    repeats = query.shape[1] // key.shape[1]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [L, heads, D]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    bounds = torch.tensor([0, *accumulate(segments)], dtype=torch.int32, device=query.device)
    longest = max(segments)
    window = (-1 if sliding_window is None else sliding_window - 1, 0)  # looks so far left, and never right
    return varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=window)[None]


AttentionInterface.register(CAUSAL, causal)
