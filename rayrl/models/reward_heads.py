"""Sequence-classification heads on any Hugging Face backbone: one score, several heads, or classes.

The network is transformers' own ``...ForSequenceClassification``, so a saved reward model is an ordinary checkpoint that
`AutoModelForSequenceClassification` loads and that gives the same numbers there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayrl.errors import ModelError
from rayrl.models.loading import load_pretrained, torch_dtype


class SequenceScorer(nn.Module):
    """A backbone that reads a text, and one linear head on the state of its last token.

    ``encode(texts)`` gives the keyword arguments of ``forward``, which returns float32[B, outputs]. Texts of more than
    ``max_length`` tokens keep their end: what was answered matters more than how the question began.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.outputs = int(model.config.num_labels)

    @classmethod
    def load(
        cls,
        path: str,
        tokenizer: Any,
        *,
        outputs: int,
        max_length: int = 512,
        dtype: str = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> SequenceScorer:
        """``path``: a language model (its head is replaced by a fresh one, drawn from ``seed``) or a saved reward model.

        Raises `ModelError` when it cannot be loaded, or knows fewer tokens than ``tokenizer``.
        """
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # that the head is new is what was asked for
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = load_pretrained(
                    AutoModelForSequenceClassification,
                    "sequence classifier",
                    path,
                    torch_dtype(dtype),
                    num_labels=outputs,
                    trust_remote_code=trust_remote_code,
                )
        finally:
            logging.set_verbosity(verbosity)
        largest = max(tokenizer.get_vocab().values())
        if largest >= model.config.get_text_config().vocab_size:
            raise ModelError(
                f"the tokenizer has token ids up to {largest}, model {path} has fewer embeddings", "use the model's own tokenizer"
            )
        model.config.pad_token_id = tokenizer.pad_token_id
        return cls(model, tokenizer, max_length)

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Right-padded ``input_ids`` and ``attention_mask``, int64[B, T]. An empty text is one padding token."""
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"][-self.max_length :] for text in texts]
        width = max(1, max(map(len, ids), default=1))
        tokens = torch.full((len(ids), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence)] = torch.tensor(sequence, dtype=tokens.dtype)
            mask[row, : max(1, len(sequence))] = 1
        return {"input_ids": tokens, "attention_mask": mask}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float()

    def save_pretrained(self, folder: Path) -> None:
        """An ordinary checkpoint of a sequence classifier, with its tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
