"""Beams write only what exists, and all of it when they are as wide as the trie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayrl.models.constrained import Trie, beam_search
from rayrl.models.tiny import build_model


def exhaustive(model, prompt, sequences):
    """Every sequence by teacher forcing."""
    found = {}
    for s in sequences:
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prompt, *s]])).logits[0].log_softmax(-1)
        found[s] = float(sum(logprobs[len(prompt) + i - 1, t] for i, t in enumerate(s)))
    return sorted(found.items(), key=lambda item: -item[1])


def test_a_full_width_beam_is_exhaustive_scoring_and_a_narrow_one_writes_only_what_exists():
    rng, model = np.random.default_rng(0), build_model(seed=1).eval()
    for case in range(10):
        prompt = rng.integers(3, 60, 4).tolist()
        sequences = {(*rng.integers(60, 70, rng.integers(1, 4)).tolist(), 1) for _ in range(12)}  # lengths differ, 1 ends each
        trie, expected = Trie(sequences), exhaustive(model, prompt, sequences)
        found = beam_search(model, prompt, trie, len(sequences))
        assert [s for s, _ in found] == [s for s, _ in expected], case
        assert [v for _, v in found] == pytest.approx([v for _, v in expected], abs=1e-4)
        narrow = beam_search(model, prompt, trie, 3)
        assert len(narrow) == min(3, len(sequences)) and all(trie.is_whole(s) for s, _ in narrow)


def test_a_trie_knows_its_ends():
    trie = Trie([(5, 6, 1), (5, 7, 1), (8, 1)])
    assert len(trie) == 3 and trie.allowed([]) == [5, 8] and trie.allowed([5]) == [6, 7] and trie.allowed([5, 6, 1]) == []
    assert trie.allowed([9]) == [] and trie.is_whole((8, 1)) and not trie.is_whole((8,))
    for bad in ([(5, 6), (5, 6, 7)], [()]):
        with pytest.raises(ValueError, match="end token"):
            Trie(bad)
