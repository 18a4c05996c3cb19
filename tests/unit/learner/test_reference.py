"""The reference model: log-probs in the place of their tokens, whatever runs together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_cases import DictStore, config, random_batch

from rayrl.config.schema import OpponentConfig
from rayrl.data import arrow
from rayrl.learner.loading import load_policy
from rayrl.learner.reference import ReferenceModel
from rayrl.models import tiny


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


def test_opponents_are_the_weighted_mean_of_their_own_logprobs_and_zero_weights_are_equal_shares(model_folder, tmp_path):
    other = tiny.save(tmp_path / "other", tiny.NANO, seed=11)
    store = DictStore()
    batch = random_batch(store, turns=2)
    infos = [g.info for g in batch.groups]
    alone = {}
    for name, path in (("a", model_folder), ("b", other)):
        rows = ReferenceModel(config(model_folder, reference__path=str(path)), store).logprobs(infos)
        alone[name] = [np.concatenate(arrow.split(store.get(r, timeout_s=1), "logprobs")) for r in rows]
    for weights, shares in (((1.0, 3.0), (0.25, 0.75)), ((0.0, 0.0), (0.5, 0.5)), ((0.0, 2.0), (0.0, 1.0))):
        c = config(model_folder)
        c.reference.opponents = {"a": OpponentConfig(str(model_folder), weights[0]), "b": OpponentConfig(str(other), weights[1])}
        for i, ref in enumerate(ReferenceModel(c, store).logprobs(infos)):
            payload = store.get(ref, timeout_s=1)
            mixed = np.concatenate(arrow.split(payload, "opponents"))
            assert np.allclose(mixed, shares[0] * alone["a"][i] + shares[1] * alone["b"][i], atol=1e-5)
            assert np.allclose(np.concatenate(arrow.split(payload, "logprobs")), alone["a"][i], atol=1e-6)


def test_a_learner_that_is_given_opponents_measures_the_policy_against_them(model_folder, tmp_path):
    """The update differs from that without them, and is that of an opponent of another name with the same weights."""
    from rayrl.learner.torch import TorchLearner

    other = tiny.save(tmp_path / "other", tiny.NANO, seed=11)
    found = {}
    for name, path in (("none", None), ("self", model_folder), ("other", other)):
        store = DictStore()
        c = config(model_folder, algorithm__name="mnpo", token_budget=1000)
        if path is not None:
            c.algorithm.args = {"others": 1.0}
            c.reference.opponents = {name: OpponentConfig(str(path))}
        batch = random_batch(store)
        found[name] = TorchLearner(c, store).step(batch, ReferenceModel(c, store).logprobs([g.info for g in batch.groups]))["learner/loss"]
    assert len({round(v, 4) for v in found.values()}) == 3
