"""Loads the policy from a Hugging Face checkpoint, and refuses a tokenizer that does not fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rayrl.config.schema import ModelConfig
from rayrl.data.paths import is_local, nearest_files
from rayrl.errors import ConfigError, ModelError

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """The torch dtype of ``model.dtype``. Raises `ConfigError` for anything but bfloat16 and float32."""
    if config.dtype not in _DTYPES:
        raise ConfigError(f"model.dtype is {config.dtype!r}", "choose bfloat16 or float32")
    return _DTYPES[config.dtype]


def load_policy(config: ModelConfig, *, path: str | None = None, attention: str = "sdpa") -> Any:
    """A `PreTrainedModel` for causal language modelling in ``config.dtype`` on the CPU, dropout off, key/value cache off.

    ``path`` overrides ``config.path``. Raises `ModelError` when it is no causal language model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    path, dtype = path or config.path, compute_dtype(config)
    if is_local(path) and not (Path(path).expanduser() / "config.json").is_file():
        raise ModelError(f"{path} holds no model: there is no config.json", nearest_files(Path(path).expanduser()))
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=attention, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # transformers raises OSError, ValueError, and whatever its parsers raise
        raise ModelError(
            f"{path} cannot be loaded as a causal language model: {type(error).__name__}: {error}",
            "a model is a folder with config.json and .safetensors weights, or a name on the model hub",
        ) from error
    model.config.use_cache = False
    switch_off_dropout(model)
    return model


def check_vocabulary(model: Any, tokenizer: Any, config: ModelConfig) -> None:
    """Raises `ModelError` when the tokenizer knows an id that the model has no embedding for."""
    largest, rows = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if largest >= rows:
        raise ModelError(
            f"tokenizer {config.tokenizer or config.path!r} has token ids up to {largest}, model {config.path!r} has {rows} embeddings",
            "use the tokenizer that the model was trained with (model.tokenizer), or resize the model's embeddings first",
        )


def switch_off_dropout(model: nn.Module) -> None:
    """Sets every dropout probability to 0: the learner's log-probs must be those of the policy that was sampled."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
