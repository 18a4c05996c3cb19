"""Attention over packed sequences: each segment of a concatenated row attends to itself alone, causally.

Work grows with the sum of squared segment lengths, not with the square of their sum, on any device: on a GPU in half precision
by one variable-length kernel, elsewhere by one fused call per segment, never by a dense block-diagonal mask.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "rayrl_packed"
"""Name under which Hugging Face models find `packed_attention` (``attn_implementation``)."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    segments: list[int],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that Hugging Face models call: ``query`` is [1, heads, L, D], the output [1, L, heads, D].

    ``segments`` are the lengths of the packed sequences and sum to L. Grouped-query heads are expanded inside the kernel.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _variable_length(query, key, value, segments, scaling, sliding_window), None
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for q, k, v in zip(query.split(segments, 2), key.split(segments, 2), value.split(segments, 2), strict=True):
        band = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            band = ones.tril() & ones.triu(1 - sliding_window)
        outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=grouped))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


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


AttentionInterface.register(PACKED, packed_attention)
