"""Packed sequences on a GPU: one kernel for all segments gives what one call per segment gives, and the same gradients."""

from __future__ import annotations

import pytest
import torch

from rayrl.learner.attention import causal

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")]
SEGMENTS = [1, 7, 130, 2, 64, 300]


def attend(tensors: list[torch.Tensor], dtype: torch.dtype, window: int | None) -> list[torch.Tensor]:
    """The output, and the gradients of its weighted sum; float64 takes the path of one call per segment."""
    q, k, v = (t.to(dtype).detach().requires_grad_(True) for t in tensors)
    out, _ = causal(torch.nn.Module(), q, k, v, None, segments=SEGMENTS, sliding_window=window)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float64).view(out.shape)
    (out.double() * weights).sum().backward()
    return [x.double() for x in (out, q.grad, k.grad, v.grad)]


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_packed_attention_and_its_gradients_equal_those_of_single_segments(window, kv_heads):
    torch.manual_seed(0)
    total = sum(SEGMENTS)
    shape = lambda heads: (1, heads, total, 64)
    tensors = [torch.randn(shape(h), device="cuda").bfloat16() for h in (8, kv_heads, kv_heads)]
    for got, expected in zip(attend(tensors, torch.bfloat16, window), attend(tensors, torch.float64, window), strict=True):
        assert (got - expected).abs().max() < 0.02 * expected.abs().max()
