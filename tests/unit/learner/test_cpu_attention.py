"""The backward pass of half-precision attention on CPUs, against float64 attention by torch and its autograd."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rayrl.config.schema import LearnerConfig, ModelConfig
from rayrl.errors import ModelError
from rayrl.learner import cpu_attention
from rayrl.learner.attention import CAUSAL, causal
from rayrl.learner.loading import load_policy
from rayrl.models import tiny


def gradients(attend, tensors, dtype, weights):
    q, k, v = (t.to(dtype).detach().requires_grad_(True) for t in tensors)
    out = attend(q, k, v)
    return [x.double() for x in (out, *torch.autograd.grad((out.double() * weights).sum(), (q, k, v)))]


@pytest.mark.parametrize("rows, heads, kv_heads, tokens, scores", [
    (3, 4, 2, 80, 1 << 21), (1, 2, 2, 1, 1 << 21), (5, 6, 1, 17, 1), (2, 4, 2, 200, 100_000), (2, 4, 4, 600, 1 << 21),
])  # fmt: skip
@pytest.mark.parametrize("scale", [None, 0.3])
def test_half_precision_gradients_are_those_of_exact_attention_to_rounding(rows, heads, kv_heads, tokens, scores, scale, monkeypatch):
    monkeypatch.setattr(cpu_attention, "SCORES", scores)  # few at once: several passes over the rows
    torch.manual_seed(rows * tokens)
    shape = lambda h: (rows, h, tokens, 16)
    tensors = [torch.randn(shape(h)).bfloat16() for h in (heads, kv_heads, kv_heads)]
    weights = torch.randn(shape(heads), dtype=torch.float64)

    def exact(q, k, v):
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=heads != kv_heads)

    def ours(q, k, v):
        return causal(torch.nn.Module(), q, k, v, None, scaling=scale)[0].transpose(1, 2)

    for got, expected in zip(
        gradients(ours, tensors, torch.bfloat16, weights), gradients(exact, tensors, torch.float64, weights), strict=True
    ):
        assert (got - expected).norm() <= 0.01 * expected.norm() + 1e-9


def test_what_a_padded_row_holds_after_its_end_changes_no_gradient_before_it():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 30, 16).bfloat16().requires_grad_(True) for _ in range(3))
    found = []
    for filler in (0.0, 5.0):
        q2, k2, v2 = (torch.where(torch.arange(30)[:, None] < 20, x, torch.full_like(x, filler)) for x in (q, k, v))
        out = cpu_attention.causal_attention(q2, k2, v2, 0.25)[:, :, :20]
        found.append(torch.autograd.grad(out.float().square().sum(), (q, k, v)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("extra", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}])
def test_scores_that_a_fused_kernel_would_get_wrong_are_refused(extra):
    q = torch.zeros(1, 2, 3, 16)
    with pytest.raises(ModelError, match="eager"):
        causal(torch.nn.Module(), q, q, q, None, **extra)


@pytest.mark.parametrize("dtype, learner, expected", [
    ("bfloat16", LearnerConfig(), CAUSAL), ("float32", LearnerConfig(), "sdpa"), ("bfloat16", LearnerConfig(attention="eager"), "eager"),
    ("float32", LearnerConfig(packing=True), CAUSAL), ("bfloat16", None, "sdpa"),
])  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has kernels of its own")
def test_attention_is_chosen_by_type_and_packing(tmp_path, dtype, learner, expected):
    model = load_policy(ModelConfig(path=str(tiny.save(tmp_path)), dtype=dtype), learner=learner)
    assert model.config._attn_implementation == expected


def test_a_model_whose_layers_would_look_into_other_packed_sequences_is_refused(tmp_path):
    file = tiny.save(tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"layer_types": ["full_attention", "chunked_attention"]}))
    config = ModelConfig(path=str(tmp_path), dtype="bfloat16")
    assert load_policy(config, learner=LearnerConfig()).config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match=r"chunked_attention.*another"):
        load_policy(config, learner=LearnerConfig(packing=True))
