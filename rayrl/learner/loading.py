"""Loads the policy and its tokenizer from a Hugging Face checkpoint and refuses a pair that does not fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rayrl.config.schema import ModelConfig
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

    path = path or config.path
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=compute_dtype(config), attn_implementation=attention, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{path!r} cannot be loaded as a causal language model: {_first_line(error)}",
            "model.path is a folder with config.json and weights (.safetensors), or a name on the model hub",
        ) from error
    model.config.use_cache = False
    switch_off_dropout(model)
    return model


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer of ``config``. Raises `ModelError` when there is none."""
    from transformers import AutoTokenizer

    path = config.tokenizer or config.path
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{path!r} has no tokenizer that can be loaded: {_first_line(error)}",
            "set model.tokenizer to a folder or hub name that has tokenizer files",
        ) from error


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
