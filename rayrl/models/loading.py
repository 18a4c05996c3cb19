"""Loads Hugging Face checkpoints with one manner of speaking about what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rayrl.errors import ConfigError, ModelError
from rayrl.paths import is_local, nearest_files

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def torch_dtype(name: str) -> torch.dtype:
    """bfloat16 or float32. Raises `ConfigError` for anything else."""
    if name not in _DTYPES:
        raise ConfigError(f"model.dtype is {name!r}", "choose bfloat16 or float32")
    return _DTYPES[name]


def load_pretrained(auto_class: Any, kind: str, path: str, dtype: torch.dtype, **options: Any) -> Any:
    """``auto_class.from_pretrained`` on the CPU, dropout off, key/value cache off. ``kind`` is what the message calls the model.

    Raises `ModelError` when ``path`` holds no such model.
    """
    from transformers.utils import logging

    if is_local(path) and not (Path(path).expanduser() / "config.json").is_file():
        raise ModelError(f"{path} holds no model: there is no config.json", nearest_files(Path(path).expanduser()))
    logging.disable_progress_bar()
    try:
        model = auto_class.from_pretrained(path, dtype=dtype, **options)
    except Exception as error:  # transformers raises OSError, ValueError, and whatever its parsers raise
        raise ModelError(
            f"{path} cannot be loaded as a {kind}: {type(error).__name__}: {error}",
            "a model is a folder with config.json and .safetensors weights, or a name on the model hub",
        ) from error
    model.config.use_cache = False
    switch_off_dropout(model)
    return model


def switch_off_dropout(model: nn.Module) -> None:
    """Sets every dropout probability to 0: what is computed in training must be what is computed elsewhere."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
