"""Log-probs of action tokens: the same from any layout, and those of the sampled distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learner_cases import trajectory
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rayrl.learner import forward
from rayrl.learner.attention import CAUSAL
from rayrl.learner.forward import PolicyNet, build_inputs
from rayrl.models import tiny
from rayrl.models.heads import ValueNet

CPU = torch.device("cpu")
SMALLEST = {"vocab_size": 128, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}


def sequences(seed: int = 0, count: int = 7, turns: int = 2):
    rng = np.random.default_rng(seed)
    made = [trajectory(rng, 0, i, turns=turns) for i in range(count)]
    return [t.token_ids for t in made], [t.action_mask for t in made]


def by_hand(model, ids, masks, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence at a time through the whole Hugging Face model, full softmax in float64."""
    logprobs, entropies = [], []
    for x, mask in zip(ids, masks, strict=True):
        table = (model(input_ids=torch.from_numpy(x.astype(np.int64))[None]).logits[0].double() / temperature).log_softmax(-1)
        for t in np.flatnonzero(mask):
            logprobs.append(table[t - 1, x[t]])
            entropies.append(-(table[t - 1].exp() * table[t - 1]).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_the_whole_model_on_each_sequence_alone(packed, temperature):
    model = tiny.build_model(seed=1)
    ids, masks = sequences()
    expected = by_hand(model, ids, masks, temperature)
    model.set_attn_implementation(CAUSAL if packed else "sdpa")
    found = PolicyNet(model, temperature=temperature)(build_inputs(ids, masks, packed=packed, device=CPU))
    for got, want in zip(found, expected, strict=True):
        assert torch.allclose(got.double(), want, atol=2e-5)


def test_chunks_change_neither_values_nor_gradients(monkeypatch):
    ids, masks = sequences()
    grads = []
    for limit in (1 << 25, 128 * 5):  # all at once, five positions at once
        monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", limit)
        net = PolicyNet(tiny.build_model(seed=1), entropy_grad=True)
        logprobs, entropies = net(build_inputs(ids, masks, packed=False, device=CPU))
        (logprobs.square().sum() + entropies.sum()).backward()
        grads.append((logprobs.detach(), *[p.grad for p in net.parameters()]))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_packed_and_padded_gradients_agree():
    ids, masks = sequences(seed=4)
    grads = []
    for packed in (False, True):
        model = tiny.build_model(seed=1)
        model.set_attn_implementation(CAUSAL if packed else "sdpa")
        net = PolicyNet(model)
        logprobs, _ = net(build_inputs(ids, masks, packed=packed, device=CPU))
        (logprobs * torch.arange(len(logprobs))).sum().backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-3, rtol=1e-3)


def test_sliding_windows_hold_in_packed_sequences():
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SMALLEST, num_hidden_layers=2, use_sliding_window=True, sliding_window=4, max_window_layers=0))
    assert "sliding_attention" in model.config.layer_types
    ids, masks = sequences(seed=5)
    expected, _ = by_hand(model, ids, masks, 1.0)
    model.set_attn_implementation(CAUSAL)
    found, _ = PolicyNet(model)(build_inputs(ids, masks, packed=True, device=CPU))
    assert torch.allclose(found.double(), expected, atol=2e-5)


def test_a_model_that_caps_its_logits_is_scored_with_the_cap():
    torch.manual_seed(0)
    config = Gemma2Config(**SMALLEST, num_hidden_layers=1, head_dim=16, final_logit_softcapping=0.5, attn_logit_softcapping=None)
    model = Gemma2ForCausalLM(config).eval()
    ids, masks = sequences(seed=6)
    expected, _ = by_hand(model, ids, masks, 1.0)
    found, _ = PolicyNet(model)(build_inputs(ids, masks, packed=False, device=CPU))
    assert torch.allclose(found.double(), expected, atol=2e-5)


def test_tokens_after_an_action_do_not_change_its_logprob():
    net = PolicyNet(tiny.build_model(seed=1))
    ids, masks = sequences(count=1)
    before, _ = net(build_inputs(ids, masks, packed=False, device=CPU))
    last = int(np.flatnonzero(masks[0])[-1])
    longer = np.concatenate([ids[0][: last + 1], np.full(20, 7, np.int32)])
    mask = np.concatenate([masks[0][: last + 1], np.zeros(20, bool)])
    after, _ = net(build_inputs([longer], [mask], packed=False, device=CPU))
    assert torch.allclose(before, after, atol=1e-6)


def test_an_action_without_a_prefix_is_refused():
    with pytest.raises(ValueError, match="first token"):
        build_inputs([np.array([5, 6], np.int32)], [np.array([True, True])], packed=False, device=CPU)


def test_a_rank_without_work_gets_a_pass_with_gradients_of_zero():
    for packed in (False, True):
        model = tiny.build_model(seed=1)
        model.set_attn_implementation(CAUSAL if packed else "sdpa")
        net = PolicyNet(model)
        logprobs, entropies = net(build_inputs([], [], packed=packed, device=CPU))
        assert logprobs.shape == entropies.shape == (0,)
        logprobs.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_values_are_read_before_each_action_and_start_at_zero():
    net = ValueNet.from_policy(tiny.build_model(seed=1))
    ids, masks = sequences()
    inputs = build_inputs(ids, masks, packed=False, device=CPU)
    assert not net(inputs).any()
    torch.nn.init.normal_(net.head.weight)
    expected = [
        net.head(net.backbone(input_ids=torch.from_numpy(x.astype(np.int64))[None]).last_hidden_state[0, t - 1])
        for x, mask in zip(ids, masks, strict=True)
        for t in np.flatnonzero(mask)
    ]
    assert torch.allclose(net(inputs), torch.cat(expected), atol=1e-5)
