"""The real vLLM, in this process: it keeps the engine contract and computes what the model computes, before and after updates."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rollout"))
pytest.register_assert_rewrite("engine_contract", "model_contract")

from engine_contract import *  # noqa: E402, F403
from engine_contract import MAX_LENGTH, MAX_RUNNING, generate, hf_logprobs, nano, prompt, requests, save_nano, weights_of  # noqa: E402
from model_contract import *  # noqa: E402, F403

from rayrl.config.schema import ModelConfig, RolloutConfig  # noqa: E402
from rayrl.errors import EnvironmentMissing, WeightSyncError  # noqa: E402
from rayrl.models import tiny  # noqa: E402
from rayrl.protocols import Engine  # noqa: E402
from rayrl.rollout.select import vllm_obstacle  # noqa: E402
from rayrl.sync.plan import digest, manifest, pack, wire_items  # noqa: E402
from rayrl.types import GenerationRequest, SamplingParams, WeightUpdate  # noqa: E402

pytestmark = pytest.mark.skipif(bool(vllm_obstacle()), reason=f"vllm cannot run here: {vllm_obstacle()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_nano(tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module")
def config(folder) -> tuple[ModelConfig, RolloutConfig]:
    rollout = RolloutConfig(max_running=MAX_RUNNING, kv_cache_gib=0.1, cpu_threads=1)
    return ModelConfig(path=str(folder), dtype="float32", max_length=MAX_LENGTH), rollout


@pytest.fixture(scope="module")
def engine(config) -> Engine:
    from rayrl.rollout.vllm import VllmEngine

    engine = VllmEngine(*config)
    yield engine
    engine.close()


def test_greedy_completions_equal_those_of_the_torch_engine(engine, config):
    from rayrl.rollout.torch import TorchEngine

    other = TorchEngine(*config)
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    asked = requests(12, temperature=0.0, max_tokens=40)
    ours, theirs = generate(engine, asked), generate(other, asked)
    for key, r in ours.items():
        assert np.array_equal(r.token_ids, theirs[key].token_ids) and r.finish_reason is theirs[key].finish_reason
        assert np.abs(r.logprobs - theirs[key].logprobs).max() < 1e-3


def test_the_prefix_cache_is_used_within_a_version_and_not_across(engine, monkeypatch):
    from rayrl.rollout import vllm_bridge

    hits = []
    convert = vllm_bridge.result
    monkeypatch.setattr(vllm_bridge, "result", lambda output: (hits.append(output.num_cached_tokens), convert(output))[1])
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    asked = [GenerationRequest("r", prompt(0, 200), SamplingParams(max_tokens=2))]
    holder = [GenerationRequest("holder", prompt(9, 200), SamplingParams(max_tokens=50, ignore_eos=True))]
    engine.add(holder)  # keeps a request in flight, so that the cache cannot simply be emptied
    generate(engine, asked), engine.add(holder), engine.step()
    generate(engine, asked), engine.add(holder), engine.step()
    engine.update_weights(weights_of(nano(1), engine.version + 1))
    engine.add(asked)
    before = len(hits)
    while "r" not in [r.id for r in engine.step()]:
        pass
    assert 128 in hits[:before] and hits[before:] == [0]
    engine.abort(["holder"])


def test_scoring_draws_no_random_numbers(engine):
    engine.reseed(5)
    plain = generate(engine, requests(4))
    engine.reseed(5)
    engine.logprobs(prompt(1, 20))
    scored = generate(engine, requests(4))
    assert all(np.array_equal(r.token_ids, scored[key].token_ids) for key, r in plain.items())


def test_it_may_be_stepped_by_another_thread_than_built_it(engine):
    def work() -> None:
        done.update(generate(engine, requests(6, ignore_eos=True)))

    done: dict = {}
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(done) == 6


def test_an_engine_on_cpu_says_that_it_cannot_sleep(engine):
    with pytest.raises(EnvironmentMissing, match="no device memory"):
        engine.sleep()


def test_an_output_head_of_its_own_is_updated_too(engine, config, tmp_path):
    from transformers import Qwen2ForCausalLM

    from rayrl.rollout.vllm import VllmEngine

    def untied(seed: int) -> Qwen2ForCausalLM:
        settings = nano(0).config
        settings.tie_word_embeddings = False
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(settings).eval()

    untied(0).save_pretrained(tmp_path)
    tiny.build_tokenizer().save_pretrained(tmp_path)
    other = VllmEngine(replace(config[0], path=str(tmp_path)), config[1])
    model, canary = untied(1), prompt(3, 40)
    buckets, layout = pack(wire_items(model.named_parameters(), tied=False), 1 << 15)
    assert "lm_head.weight" in [t.name for t in layout.tensors]
    update = WeightUpdate(manifest(layout, 1, map(digest, buckets)), buckets, canary, hf_logprobs(model, canary))
    assert other.update_weights(update).canary_gap < 1e-4
    with pytest.raises(WeightSyncError, match=r"missing lm_head\.weight"):
        other.update_weights(weights_of(nano(0), 2))
