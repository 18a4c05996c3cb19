"""The torch engine keeps the engine contract and computes what the model computes."""

from __future__ import annotations

import numpy as np
import pytest
from engine_contract import *  # noqa: F403
from engine_contract import MAX_LENGTH, MAX_RUNNING, finish, generate, nano, prompt, requests, save_nano, weights_of
from model_contract import *  # noqa: F403

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.protocols import Engine
from rayrl.rollout.torch import TorchEngine
from rayrl.types import GenerationRequest, SamplingParams


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = save_nano(tmp_path_factory.mktemp("nano"))
    model = ModelConfig(path=str(folder), dtype="float32", max_length=MAX_LENGTH)
    return TorchEngine(model, RolloutConfig(max_running=MAX_RUNNING, cpu_threads=1))


def test_finished_rows_leave_the_cache_with_the_padding_that_only_they_needed(engine):
    long = GenerationRequest("long", prompt(0, 100), SamplingParams(max_tokens=3, ignore_eos=True))
    short = GenerationRequest("short", prompt(1, 5), SamplingParams(max_tokens=8, ignore_eos=True))
    engine.add([long, short])
    for _ in range(3):
        engine.step()
    assert engine._cache.layers[0].keys.shape[0] == 1 and engine._cache.get_seq_length() == 7
    finish(engine)
    assert engine._cache is None


def test_samples_of_one_prompt_share_its_prefill_and_still_differ(engine, monkeypatch):
    widths = []
    forward = engine._model.forward
    monkeypatch.setattr(engine._model, "forward", lambda ids, **kw: (widths.append(tuple(ids.shape)), forward(ids, **kw))[1])
    asked = [GenerationRequest(f"r{i}", prompt(0, 30), SamplingParams(max_tokens=6, ignore_eos=True)) for i in range(6)]
    done = generate(engine, asked)
    assert widths[0] == (1, 30) and widths[1:] == [(6, 1)] * 5
    assert len({r.token_ids.tobytes() for r in done.values()}) > 1


def test_rows_that_join_a_running_batch_get_the_tokens_they_would_get_alone(engine):
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    greedy = [
        GenerationRequest(f"r{i}", prompt(i, 4 + 9 * i), SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)) for i in range(5)
    ]
    alone = {r.id: generate(engine, [r])[r.id] for r in greedy}
    done = {}
    for r in greedy:
        engine.add([r])
        done |= {x.id: x for x in engine.step() + engine.step()}
    done |= finish(engine)
    for key, r in alone.items():
        assert np.array_equal(r.token_ids, done[key].token_ids)
        assert np.abs(r.logprobs - done[key].logprobs).max() < 1e-4


def test_equal_requests_are_padded_and_capped_at_max_running(engine):
    engine.add(requests(MAX_RUNNING + 3, ignore_eos=True))
    engine.step()
    assert engine._cache.layers[0].keys.shape[0] == MAX_RUNNING and engine.num_running == MAX_RUNNING + 3
    assert len(finish(engine)) == MAX_RUNNING + 3
