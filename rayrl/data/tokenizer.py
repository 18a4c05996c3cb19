"""The tokenizer of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayrl.config.schema import ModelConfig
from rayrl.errors import ModelError
from rayrl.paths import is_local, nearest_files

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")


def load_tokenizer(config: ModelConfig) -> Any:
    """The Hugging Face tokenizer of ``model.tokenizer``, or of ``model.path`` where that is null.

    A tokenizer without a padding token pads with its end-of-sequence token. Raises `ModelError` when there is no tokenizer,
    or none with an end-of-sequence token.
    """
    key, name = ("model.tokenizer", config.tokenizer) if config.tokenizer is not None else ("model.path", config.path)
    path = Path(name).expanduser()
    if is_local(name):
        if not path.is_dir():
            raise ModelError(f"{key}: {name} is not a folder", nearest_files(path))
        if not any((path / file).exists() for file in _FILES):
            raise ModelError(f"{key}: {name} holds no tokenizer files", "Set model.tokenizer to a folder with a tokenizer.json.")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path if path.is_dir() else name, trust_remote_code=config.trust_remote_code)
    except Exception as e:  # transformers raises OSError, ValueError, and whatever its parsers raise
        raise ModelError(f"{key}: the tokenizer of {name} cannot be loaded: {type(e).__name__}: {e}", "Check name and network.") from e
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{key}: the tokenizer of {name} has no end-of-sequence token", "Set eos_token in its tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
