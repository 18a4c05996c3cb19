"""A head goes on any backbone of Hugging Face: decoders and encoders, one score, several heads or classes."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rayrl.models import tiny
from rayrl.models.reward_heads import SequenceScorer

SHAPE = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BACKBONES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=1)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=2, n_positions=64)),
    "bert": lambda: BertModel(BertConfig(**SHAPE, max_position_embeddings=64)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_it_scores_learns_and_is_read_again(name, tmp_path):
    torch.manual_seed(0)
    BACKBONES[name]().save_pretrained(tmp_path / "backbone")
    tokenizer = tiny.build_tokenizer()
    scorer = SequenceScorer.load(str(tmp_path / "backbone"), tokenizer, outputs=6, max_length=32, seed=1)
    texts = ["1+2=3", "a longer text than the first", "", "1+2=3"]
    scorer.eval()
    scores = scorer(**scorer.encode(texts))
    assert scores.shape == (4, 6) and torch.isfinite(scores).all() and torch.equal(scores[0], scores[3])
    alone = scorer(**scorer.encode(texts[:1]))
    assert torch.allclose(alone[0], scores[0], atol=1e-5), "padding does not change a score"
    scores[:2].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in scorer.named_parameters() if "embed" in n or "wte" in n)
    scorer.save_pretrained(tmp_path / "saved")
    again = SequenceScorer.load(str(tmp_path / "saved"), tokenizer, outputs=6, max_length=32)
    again.eval()
    assert torch.allclose(again(**again.encode(texts)), scores, atol=1e-6)
