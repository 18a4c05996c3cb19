"""Loads the policy from a Hugging Face checkpoint, and refuses a tokenizer that does not fit it."""

from __future__ import annotations

from typing import Any

import torch

from rayrl.config.schema import ModelConfig
from rayrl.errors import ModelError
from rayrl.models.loading import load_pretrained, torch_dtype


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """The torch dtype of ``model.dtype``. Raises `ConfigError` for anything but bfloat16 and float32."""
    return torch_dtype(config.dtype)


def load_policy(config: ModelConfig, *, path: str | None = None, attention: str = "sdpa") -> Any:
    """A `PreTrainedModel` for causal language modelling in ``config.dtype`` on the CPU, dropout off, key/value cache off.

    ``path`` overrides ``config.path``. Raises `ModelError` when it is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    return load_pretrained(
        AutoModelForCausalLM,
        "causal language model",
        path or config.path,
        compute_dtype(config),
        attn_implementation=attention,
        trust_remote_code=config.trust_remote_code,
    )


def check_vocabulary(model: Any, tokenizer: Any, config: ModelConfig) -> None:
    """Raises `ModelError` when the tokenizer knows an id that the model has no embedding for."""
    largest, rows = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if largest >= rows:
        raise ModelError(
            f"tokenizer {config.tokenizer or config.path!r} has token ids up to {largest}, model {config.path!r} has {rows} embeddings",
            "use the tokenizer that the model was trained with (model.tokenizer), or resize the model's embeddings first",
        )
