"""How big a model is and what each role needs in memory for it, read from a local checkpoint without loading it.

Estimates are of what scales with the model (parameters, gradients, optimiser, logits, key/value cache); activations and the
libraries themselves come on top.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrl.config.schema import Config

_DTYPE_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a decoder-only transformer that memory follows from."""

    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * dtype_bytes


def model_size(path: str | Path) -> ModelSize | None:
    """Sizes of a local Hugging Face checkpoint; None where the folder or its config.json is not there or is of another kind."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return None
    raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    raw = raw.get("text_config", raw)
    try:
        hidden, layers, heads, vocab = (int(raw[k]) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"))
    except KeyError:
        return None
    kv_heads = int(raw.get("num_key_value_heads") or heads)
    head_dim = int(raw.get("head_dim") or hidden // heads)
    stored = _stored_parameters(Path(path))
    parameters = stored if stored is not None else _counted_parameters(raw, hidden, layers, heads, kv_heads, head_dim, vocab)
    return ModelSize(parameters, layers, kv_heads, head_dim, vocab, int(raw.get("max_position_embeddings", 0)))


def role_memory(config: Config, size: ModelSize, mode: str) -> dict[str, dict[str, int]]:
    """Bytes per actor by role and purpose. The learner follows mixed-precision Adam with ZeRO (Rajbhandari et al. 2020, section 3)."""
    width, ranks = _DTYPE_BYTES.get(config.model.dtype, 2), config.learner.ranks
    stage = config.learner.zero_stage if config.learner.backend == "deepspeed" else 0
    master = 4 * size.parameters if width == 2 else 0
    optimiser = (8 * size.parameters + master) // (ranks if stage >= 1 else 1)
    kv = (
        int(config.rollout.kv_cache_gib * 2**30)
        if mode == "cpu"
        else config.rollout.max_running * longest_sequence(config) * size.kv_bytes_per_token(width)
    )
    return {
        "rollout": {
            "parameters": size.parameters * width // config.rollout.tensor_parallel,
            "kv cache": kv // config.rollout.tensor_parallel,
        },
        "learner": {
            "parameters": size.parameters * width // (ranks if stage == 3 else 1),
            "gradients": size.parameters * width // (ranks if stage >= 2 else 1),
            "optimiser" + (" (host)" if config.learner.offload else ""): optimiser,
            "logits": 2 * 4 * config.learner.token_budget * size.vocab,  # float32, and their gradient
        },
        "reference": {
            "parameters": (1 + len(config.reference.opponents)) * size.parameters * width,
            "logits": 4 * config.reference.token_budget * size.vocab,
        },
    }


def longest_sequence(config: Config) -> int:
    """Most tokens of one trajectory: the context limit, or for one turn what prompt and completion limits allow below it."""
    if config.rollout.max_turns > 1:
        return config.model.max_length
    return min(config.model.max_length, config.data.max_prompt_length + config.rollout.sampling.max_tokens)


def _stored_parameters(folder: Path) -> int | None:
    """Exact count from the headers of the safetensors files; None where there are none."""
    total, files = 0, sorted(folder.glob("*.safetensors"))
    for file in files:
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(length))
        total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total if files else None


def _counted_parameters(raw: dict[str, Any], hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, vocab: int) -> int:
    """Llama-shaped count: attention, gated feed-forward, embeddings; norms and biases are below one per mille."""
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    feed_forward = 3 * hidden * int(raw.get("intermediate_size", 4 * hidden))
    embeddings = vocab * hidden * (1 if raw.get("tie_word_embeddings") else 2)
    return layers * (attention + feed_forward) + embeddings
