"""The reference model: log-probs in the place of their tokens, whatever runs together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_cases import DictStore, config, random_batch

from rayrl.data import arrow
from rayrl.learner.loading import load_policy
from rayrl.learner.reference import ReferenceModel


@pytest.mark.parametrize("settings", [{}, {"reference__token_budget": 30}, {"packing": True, "reference__token_budget": 40}], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_stand_at_their_tokens_and_zero_elsewhere(settings, temperature, model_folder):
    store = DictStore()
    c = config(model_folder, rollout__sampling__temperature=temperature, **settings)
    batch = random_batch(store, turns=2, drop=0.3)
    payloads = ReferenceModel(c, store).logprobs([g.info for g in batch.groups])
    model = load_policy(c.model)
    for group, payload in zip(batch.groups, payloads, strict=True):
        samples = arrow.decode(store.get(group.info.payload, timeout_s=1))
        rows = arrow.split(store.get(payload, timeout_s=1), "logprobs")
        assert len(rows) == len(samples)
        for sample, row in zip(samples, rows, strict=True):
            assert row.dtype == np.float32
            with torch.no_grad():
                logits = model(input_ids=torch.tensor(sample.token_ids.astype(np.int64))[None]).logits[0]
            table = (logits / temperature).log_softmax(-1).numpy()
            expected = np.where(sample.action_mask, table[np.arange(sample.num_tokens) - 1, sample.token_ids], 0)
            assert np.allclose(row, expected, atol=2e-5)


def test_a_group_in_which_nobody_acted_is_all_zero(model_folder):
    store = DictStore()
    info = random_batch(store, groups=1).groups[0].info
    silent = [replace(s, action_mask=np.zeros(s.num_tokens, bool)) for s in arrow.decode(store.get(info.payload, timeout_s=1))]
    info = replace(info, payload=store.put(arrow.encode(silent)))
    (payload,) = ReferenceModel(config(model_folder), store).logprobs([info])
    rows = arrow.split(store.get(payload, timeout_s=1), "logprobs")
    assert [len(r) for r in rows] == info.lengths.tolist()
    assert not np.concatenate(rows).any()
