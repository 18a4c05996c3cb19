"""Loads the policy from a Hugging Face checkpoint, and refuses a tokenizer that does not fit it."""

from __future__ import annotations

from typing import Any

import torch

from rayrl.config.schema import LearnerConfig, ModelConfig
from rayrl.errors import ModelError
from rayrl.learner.attention import CAUSAL
from rayrl.models.loading import load_pretrained, torch_dtype


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """The torch dtype of ``model.dtype``. Raises `ConfigError` for anything but bfloat16 and float32."""
    return torch_dtype(config.dtype)


def load_policy(config: ModelConfig, *, path: str | None = None, learner: LearnerConfig | None = None) -> Any:
    """A `PreTrainedModel` for causal language modelling in ``config.dtype`` on the CPU, dropout off, key/value cache off.

    ``path`` overrides ``config.path``; ``learner`` says how it attends (default: sdpa). Raises `ModelError` when it is no causal
    language model, or cannot be packed.
    """
    from transformers import AutoModelForCausalLM

    dtype, path = compute_dtype(config), path or config.path
    packing = learner is not None and learner.packing
    attention = "sdpa" if learner is None or learner.attention == "auto" else learner.attention
    options = {"attn_implementation": attention, "trust_remote_code": config.trust_remote_code}
    model = load_pretrained(AutoModelForCausalLM, "causal language model", path, dtype, **options)
    foreign = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if packing and foreign:
        raise ModelError(
            f"{path} has layers of {', '.join(sorted(foreign))}, which would look from one packed sequence into another",
            "set learner.packing=false",
        )
    on_cpu = learner is not None and learner.attention == "auto" and dtype != torch.float32 and not torch.cuda.is_available()
    if packing or (on_cpu and not foreign):
        model.set_attn_implementation(CAUSAL)
    return model


def check_vocabulary(model: Any, tokenizer: Any, config: ModelConfig) -> None:
    """Raises `ModelError` when the tokenizer knows an id that the model has no embedding for."""
    largest, rows = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if largest >= rows:
        raise ModelError(
            f"tokenizer {config.tokenizer or config.path!r} has token ids up to {largest}, model {config.path!r} has {rows} embeddings",
            "use the tokenizer that the model was trained with (model.tokenizer), or resize the model's embeddings first",
        )
