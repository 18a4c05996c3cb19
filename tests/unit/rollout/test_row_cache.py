"""The cache of running rows against one list of tensors per row."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import DynamicCache

from rayrl.rollout import row_cache
from rayrl.rollout.row_cache import RowCache

HEADS, SIZE, LAYERS = 2, 3, 2


def states(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape[0], HEADS, shape[1], SIZE), torch.randn(shape[0], HEADS, shape[1], SIZE)


@pytest.mark.parametrize("seed", range(30))
def test_every_row_keeps_its_own_keys_and_values_while_others_come_and_go(seed, monkeypatch):
    monkeypatch.setattr(row_cache, "ROOM", 3)  # buffers are made anew often
    rng = random.Random(seed)
    torch.manual_seed(seed)
    cache, rows = RowCache(LAYERS), []  # rows[i][layer] = (keys [heads, tokens, size], values)
    for _ in range(60):
        action = rng.choice(["join", "step", "step", "step", "leave"]) if rows else "join"
        if action == "join":
            prefill, width = DynamicCache(), rng.randint(1, 9)
            for layer in range(LAYERS):
                prefill.update(*states(2, width), layer)
            index = torch.tensor([rng.randrange(2) for _ in range(rng.randint(1, 4))])
            cache.join(prefill, index)
            rows += [[(layer.keys[i], layer.values[i]) for layer in prefill.layers] for i in index]
        elif action == "step":
            for layer in range(LAYERS):
                keys, values = states(len(rows), 1)
                cache.update(keys, values, layer)
                for i, row in enumerate(rows):
                    row[layer] = torch.cat([row[layer][0], keys[i]], 1), torch.cat([row[layer][1], values[i]], 1)
        else:
            kept = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
            order = cache.leave(kept, max(rows[i][0][0].shape[1] for i in kept))
            assert sorted(order) == kept
            rows = [rows[i] for i in order]
        width = max(row[0][0].shape[1] for row in rows)
        for number, layer in enumerate(cache.layers):
            assert layer.keys.shape == layer.values.shape == (len(rows), HEADS, cache.get_seq_length(), SIZE)
            assert width <= cache.get_seq_length() and layer.keys.isfinite().all() and layer.values.isfinite().all()
            for i, row in enumerate(rows):
                for found, expected in zip((layer.keys[i], layer.values[i]), row[number], strict=True):
                    assert torch.equal(found[:, -expected.shape[1] :], expected)


def test_a_step_moves_nothing_that_is_there():
    cache, prefill = RowCache(1), DynamicCache()
    prefill.update(*states(4, 5), 0)
    cache.join(prefill, torch.arange(4))
    cache.update(*states(4, 1), 0)
    places = [cache.layers[0].keys.data_ptr(), cache.layers[0].values.data_ptr()]
    for _ in range(row_cache.ROOM - 1):
        cache.update(*states(4, 1), 0)
    assert places == [cache.layers[0].keys.data_ptr(), cache.layers[0].values.data_ptr()]
