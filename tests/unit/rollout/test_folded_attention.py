"""One new token per row, with query heads that share keys, against plain attention in float64."""

from __future__ import annotations

import pytest
import torch

from rayrl.rollout.folded_attention import folded


@pytest.mark.parametrize("heads, groups", [(4, 2), (7, 1), (3, 3)])
@pytest.mark.parametrize("scaling", [None, 0.2])
def test_each_query_head_attends_to_the_keys_of_its_group_and_to_nothing_masked(heads, groups, scaling):
    torch.manual_seed(heads)
    query = torch.randn(5, heads, 1, 8, dtype=torch.float64)
    key, value = (torch.randn(5, groups, 11, 8, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(5, 1, 1, 11) < 0.6
    mask[..., -1] = True
    module = torch.nn.Module()
    module.num_key_value_groups = heads // groups
    found, _ = folded(module, query, key, value, mask, scaling=scaling)
    for row in range(5):
        for head in range(heads):
            k, v = key[row, head * groups // heads], value[row, head * groups // heads]
            scores = (k @ query[row, head, 0]) * (8**-0.5 if scaling is None else scaling)
            weights = scores.masked_fill(~mask[row, 0, 0], -torch.inf).softmax(0)
            assert torch.allclose(found[row, 0, head], weights @ v)
