"""What leaves the learner: weights for engines, checkpoints to continue from, models for everybody else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learner_cases import DictStore, config, random_batch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayrl.errors import CheckpointError, ConfigError, ModelError
from rayrl.learner.loading import load_policy
from rayrl.learner.torch import TorchLearner
from rayrl.models import tiny
from rayrl.sync.plan import unpack, verify

CANARY = np.arange(3, 15, dtype=np.int32)


def trained(folder, store: DictStore, steps: int = 2, **settings) -> TorchLearner:
    learner = TorchLearner(config(folder, **settings), store)
    for i in range(steps):
        learner.step(random_batch(store, seed=i, step=i), None)
    return learner


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exported_weights_are_the_policy_by_its_hugging_face_names(dtype, model_folder):
    store = DictStore()
    learner = trained(model_folder, store, model__dtype=dtype)
    update = learner.export_weights(5, CANARY)
    buckets = [store.get(ref, timeout_s=1) for ref in update.buckets]
    verify(update.manifest, buckets)
    sent, model = dict(unpack(update.manifest, buckets)), learner._policy.net.model
    expected = {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}  # tied to the embedding
    assert sent.keys() == expected.keys()
    assert all(torch.equal(sent[name], expected[name]) and sent[name].dtype == getattr(torch, dtype) for name in sent)
    assert update.manifest.version == 5
    with torch.no_grad():
        table = model(input_ids=torch.from_numpy(CANARY.astype(np.int64))[None]).logits[0].float().log_softmax(-1).numpy()
    assert np.allclose(update.canary_logprobs, table[np.arange(11), CANARY[1:]], atol=1e-5 if dtype == "float32" else 2e-2)


def test_small_buckets_carry_the_same_weights(model_folder):
    store = DictStore()
    learner = trained(model_folder, store)
    whole = learner.export_weights(1, None)
    learner._config.sync.bucket_mib = 0  # every tensor is larger than its bucket
    split = learner.export_weights(1, None)
    assert len(whole.buckets) == 1 < len(split.buckets)
    a, b = (dict(unpack(u.manifest, [store.get(r, timeout_s=1) for r in u.buckets])) for u in (whole, split))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_training_continues_to_the_last_bit(name, dtype, model_folder, tmp_path):
    settings = {"algorithm__name": name, "model__dtype": dtype, "ema_decay": 0.8, "optim__schedule": "cosine", "optim__warmup_steps": 2}
    store = DictStore()
    straight = trained(model_folder, store, 2, **settings)
    straight.save(tmp_path)
    resumed = TorchLearner(config(model_folder, **settings), store)
    resumed.load(tmp_path)
    for i in range(2, 4):
        batch = random_batch(store, seed=i, step=i)
        a, b = straight.step(batch, None), resumed.step(batch, None)
        assert {k: v for k, v in a.items() if k != "learner/tokens_per_s"} == {k: v for k, v in b.items() if k != "learner/tokens_per_s"}
    for part, other in zip((straight._policy, straight._critic), (resumed._policy, resumed._critic), strict=True):
        if part is not None:
            for x, y in zip(part.masters(), other.masters(), strict=True):
                assert torch.equal(x, y)
    for x, y in zip(straight._ema._average, resumed._ema._average, strict=True):
        assert torch.equal(x, y)


def test_loading_undoes_updates_that_were_made_since(model_folder, tmp_path):
    store = DictStore()
    learner = trained(model_folder, store, 1)
    learner.save(tmp_path)
    batch = random_batch(store, seed=9, step=9)
    first = learner.step(batch, None)["learner/loss"]
    before = [m.clone() for m in learner._policy.masters()]
    learner.load(tmp_path)
    assert learner.step(batch, None)["learner/loss"] == first
    assert all(torch.equal(a, b) for a, b in zip(before, learner._policy.masters(), strict=True))


def test_a_fresh_learner_can_be_saved_before_its_first_step(model_folder, tmp_path):
    store = DictStore()
    TorchLearner(config(model_folder), store).save(tmp_path)
    other = trained(model_folder, store, 1)
    other.load(tmp_path)
    fresh = TorchLearner(config(model_folder), store)
    batch = random_batch(store)
    assert other.step(batch, None)["learner/loss"] == fresh.step(batch, None)["learner/loss"]
    assert all(torch.equal(a, b) for a, b in zip(other._policy.masters(), fresh._policy.masters(), strict=True))


def test_a_missing_file_or_another_model_is_refused(model_folder, tmp_path):
    store = DictStore()
    learner = TorchLearner(config(model_folder), store)
    with pytest.raises(CheckpointError, match="no learner checkpoint"):
        learner.load(tmp_path)
    learner.save(tmp_path)
    bigger = tiny.save(tmp_path / "bigger", tiny.TinyShape(hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64))
    with pytest.raises(CheckpointError, match="does not fit"):
        TorchLearner(config(bigger), store).load(tmp_path)
    next(tmp_path.glob("policy-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        learner.load(tmp_path)


def test_a_saved_policy_is_an_ordinary_checkpoint(model_folder, tmp_path):
    learner = trained(model_folder, DictStore(), ema_decay=0.5)
    learner.save_pretrained(tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    mine = learner._policy.net.model.state_dict()
    assert all(torch.equal(t, mine[name]) for name, t in loaded.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "policy")("12+3")["input_ids"] == tiny.build_tokenizer()("12+3")["input_ids"]
    average = AutoModelForCausalLM.from_pretrained(tmp_path / "policy" / "ema", dtype=torch.float32).state_dict()
    start = load_policy(config(model_folder).model).state_dict()
    assert any(not torch.equal(average[name], mine[name]) and not torch.equal(average[name], start[name]) for name in average)


def test_the_moving_average_follows_its_formula(model_folder):
    store = DictStore()
    learner = TorchLearner(config(model_folder, ema_decay=0.75), store)
    expected = [m.detach().clone() for m in learner._policy.masters()]
    for i in range(3):
        learner.step(random_batch(store, seed=i, step=i), None)
        expected = [0.75 * e + 0.25 * m.detach() for e, m in zip(expected, learner._policy.masters(), strict=True)]
    for e, average in zip(expected, learner._ema._average, strict=True):
        assert torch.allclose(e, average, atol=1e-7)


def test_a_path_without_a_model_is_named(model_folder, tmp_path):
    with pytest.raises(ModelError, match=r"nothing_here"):
        load_policy(config(tmp_path / "nothing_here").model)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="broken"):
        load_policy(config(tmp_path / "broken").model)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(tmp_path):
    tiny.build_model(vocab_size=64).save_pretrained(tmp_path)
    tiny.build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="64 embeddings"):
        TorchLearner(config(tmp_path), DictStore())


def test_an_unknown_dtype_is_refused(model_folder):
    with pytest.raises(ConfigError, match=r"model\.dtype"):
        TorchLearner(config(model_folder, model__dtype="float8"), DictStore())
