"""Decoding that can only write what exists: beams confined to the trie of all identifiers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch


class Trie:
    """Sequences of token ids by their prefixes. A sequence that is a proper prefix of another needs an end token of its own."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        """Raises `ValueError` for an empty sequence, and for one that another one continues."""
        self._children: dict[tuple[int, ...], set[int]] = {}
        self._whole = {tuple(sequence) for sequence in sequences}
        for sequence in self._whole:
            for i in range(len(sequence)):
                self._children.setdefault(sequence[:i], set()).add(sequence[i])
        if () in self._whole or any(sequence in self._children for sequence in self._whole):
            raise ValueError("a sequence is empty or is the beginning of another one: append an end token to each")

    def __len__(self) -> int:
        return len(self._whole)

    def allowed(self, prefix: Sequence[int]) -> list[int]:
        """Tokens that may follow, ascending; none after a whole sequence, or after what is no prefix."""
        return sorted(self._children.get(tuple(prefix), ()))

    def is_whole(self, sequence: Sequence[int]) -> bool:
        return tuple(sequence) in self._whole


@torch.inference_mode()
def beam_search(model: Any, prompt: Sequence[int], trie: Trie, beams: int) -> list[tuple[tuple[int, ...], float]]:
    """The ``beams`` most likely sequences of ``trie`` after ``prompt``, best first, with their total log-probs.

    Log-probs are those of the whole vocabulary: what is not allowed is left out, and the rest is not normalised anew. Nothing is
    normalised by length. As wide as the trie it is exhaustive. ``model``: a causal language model; prefixes are short, no cache is kept.
    """
    running: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[tuple[tuple[int, ...], float]] = []
    while running:
        logits = model(torch.tensor([[*prompt, *prefix] for prefix, _ in running], device=model.device)).logits[:, -1].float()
        logprobs = logits.log_softmax(-1).cpu()
        grown = [
            ((*prefix, token), total + float(logprobs[row, token]))
            for row, (prefix, total) in enumerate(running)
            for token in trie.allowed(prefix)
        ]
        grown = sorted([*grown, *finished], key=lambda beam: -beam[1])[:beams]
        finished = [beam for beam in grown if trie.is_whole(beam[0])]
        running = [beam for beam in grown if not trie.is_whole(beam[0])]
    return finished
