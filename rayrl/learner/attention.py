"""Attention over packed sequences: each segment of a concatenated row attends to itself alone, causally.

One fused call per segment instead of one call with a dense block-diagonal mask: work grows with the sum of squared segment
lengths, not with the square of their sum, on any device.
"""

from __future__ import annotations

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
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for q, k, v in zip(query.split(segments, 2), key.split(segments, 2), value.split(segments, 2), strict=True):
        band = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            band = ones.tril() & ones.triu(1 - sliding_window)
        outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=grouped))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(PACKED, packed_attention)
