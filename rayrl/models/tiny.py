"""Tiny language models and a character tokenizer that are built on the spot: nothing is downloaded.

They are ordinary Hugging Face checkpoints (a Qwen2 model, a fast tokenizer), so every engine and learner loads them as it
loads a 70-billion-parameter model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

CHARACTERS = "\n " + "".join(chr(c) for c in range(33, 127))
"""Printable ASCII: one token per character."""


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a Qwen2-shaped model."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 704
    max_positions: int = 1024


BENCH = TinyShape()
"""About 4.5 million parameters: the model of the benchmarks."""
SMALL = TinyShape(hidden=128, layers=4, intermediate=384)
"""About 0.8 million parameters: the model of the demo."""
NANO = TinyShape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128)
"""About 0.08 million parameters: the model of the tests."""


def build_tokenizer() -> Qwen2Tokenizer:
    """A character tokenizer over printable ASCII with ``<pad>``, ``<eos>``, ``<unk>``; ids 0, 1, 2. No chat template.

    It is Qwen2's own byte-level class with an empty merge table, because `AutoTokenizer` picks that class for every Qwen2
    checkpoint, whatever tokenizer was saved beside it. Encoding and decoding are exact for `CHARACTERS`; like any tokenizer
    of that class it skips bytes that its vocabulary lacks.
    """
    byte_level = {" ": "Ġ", "\n": "Ċ"}  # GPT-2's printable names of the two characters that are not printable themselves
    vocab = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {byte_level.get(c, c): i + 3 for i, c in enumerate(CHARACTERS)}
    return Qwen2Tokenizer(vocab=vocab, merges=[], pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_model(shape: TinyShape = NANO, *, seed: int = 0, vocab_size: int = 128) -> Qwen2ForCausalLM:
    """A randomly initialised float32 model; ``vocab_size`` is padded beyond the tokenizer's 99 entries, as real checkpoints are."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def save(folder: Path | str, shape: TinyShape = NANO, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Writes model and tokenizer as a Hugging Face checkpoint and returns the folder."""
    folder = Path(folder)
    build_model(shape, seed=seed).to(dtype).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
