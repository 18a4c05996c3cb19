"""What every engine must keep to: star-import these tests into a module that defines a fixture ``engine``.

The engine under test runs the model of `nano`, or none (the fake engine).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rayrl.errors import WeightSyncError
from rayrl.models import tiny
from rayrl.protocols import Engine
from rayrl.sync.plan import digest, manifest, pack, wire_items
from rayrl.types import FinishReason, GenerationRequest, GenerationResult, SamplingParams, WeightUpdate

MAX_LENGTH = 256
MAX_RUNNING = 32


def nano(seed: int) -> torch.nn.Module:
    """A nano model that attends strongly and predicts with a peaked distribution, as a trained one does: a stale cache then shows,
    and top-p and min-p cut at clear edges."""
    model = tiny.build_model(tiny.NANO, seed=seed)
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data *= 10
        layer.self_attn.o_proj.weight.data *= 10
    model.model.norm.weight.data *= 8
    return model.eval()


def save_nano(folder: Path, seed: int = 0) -> Path:
    nano(seed).save_pretrained(folder)
    tiny.build_tokenizer().save_pretrained(folder)
    return folder


def weights_of(model: torch.nn.Module, version: int, canary: np.ndarray | None = None) -> WeightUpdate:
    buckets, layout = pack(wire_items(model.named_parameters(), tied=True), 1 << 15)
    announced = manifest(layout, version, [digest(b) for b in buckets])
    return WeightUpdate(announced, buckets, canary, None if canary is None else hf_logprobs(model, canary))


@torch.no_grad()
def hf_logits(model: torch.nn.Module, ids: Sequence[int]) -> np.ndarray:
    """float64[T, V]: a plain forward pass."""
    return model(torch.tensor([list(map(int, ids))])).logits[0].double().numpy()


def hf_logprobs(model: torch.nn.Module, ids: Sequence[int]) -> np.ndarray:
    logits = hf_logits(model, ids)[:-1]
    logits -= logits.max(-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logprobs[np.arange(len(ids) - 1), np.asarray(ids[1:])].astype(np.float32)


def prompt(seed: int, length: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 99, length).astype(np.int32)


def requests(count: int, *, length: int = 12, **sampling) -> list[GenerationRequest]:
    params = SamplingParams(**({"max_tokens": 10} | sampling))
    return [GenerationRequest(f"r{i}", prompt(i, length), params) for i in range(count)]


def finish(engine: Engine, limit: int = 2000) -> dict[str, GenerationResult]:
    """Steps until nothing runs; fails on a request that finishes twice or never."""
    done: dict[str, GenerationResult] = {}
    for _ in range(limit):
        if engine.num_running == 0:
            return done
        for result in engine.step():
            assert result.id not in done
            done[result.id] = result
    raise AssertionError(f"{engine.num_running} requests did not finish in {limit} steps")


def generate(engine: Engine, asked: list[GenerationRequest]) -> dict[str, GenerationResult]:
    engine.add(asked)
    return finish(engine)


def test_every_request_finishes_once_and_carries_a_logprob_and_a_version_for_each_token(engine):
    done = generate(engine, requests(MAX_RUNNING + 8))
    assert sorted(done) == sorted(r.id for r in requests(MAX_RUNNING + 8))
    for r in done.values():
        count = r.token_ids.shape[0]
        assert 1 <= count <= 10 and r.token_ids.dtype == np.int32 and r.logprobs.dtype == np.float32
        assert r.logprobs.shape == (count,) and np.isfinite(r.logprobs).all() and (r.logprobs <= 1e-5).all()
        assert [s.start for s in r.version_spans] + [count] == [0] + [s.end for s in r.version_spans]
        assert {s.version for s in r.version_spans} == {engine.version}
    assert engine.num_running == 0 and engine.step() == []


def test_ignore_eos_samples_to_the_limit_of_each_request(engine):
    asked = [replace(r, sampling=SamplingParams(max_tokens=i + 1, ignore_eos=True)) for i, r in enumerate(requests(9))]
    done = generate(engine, asked)
    assert [done[f"r{i}"].token_ids.shape[0] for i in range(9)] == list(range(1, 10))
    assert {r.finish_reason for r in done.values()} == {FinishReason.LENGTH}


def test_context_limit_ends_a_completion(engine):
    asked = [GenerationRequest("long", prompt(1, MAX_LENGTH - 5), SamplingParams(max_tokens=50, ignore_eos=True))]
    result = generate(engine, asked)["long"]
    assert result.finish_reason is FinishReason.LENGTH and result.token_ids.shape[0] == 5


@pytest.mark.parametrize("length", [0, MAX_LENGTH, MAX_LENGTH + 1])
def test_a_prompt_that_does_not_fit_is_refused_and_nothing_of_its_call_is_queued(engine, length):
    with pytest.raises(ValueError, match="does not fit"):
        engine.add([*requests(2), GenerationRequest("bad", prompt(0, length), SamplingParams())])
    assert engine.num_running == 0


def test_reseeding_repeats_every_bit_and_another_seed_does_not(engine):
    runs = []
    for seed in (7, 7, 8):
        engine.reseed(seed)
        runs.append(generate(engine, requests(20)))
    first, again, other = runs
    for key, r in first.items():
        assert np.array_equal(r.token_ids, again[key].token_ids) and np.array_equal(r.logprobs, again[key].logprobs)
    assert any(not np.array_equal(r.token_ids, other[key].token_ids) for key, r in first.items())


def test_a_request_seed_repeats_its_tokens_whatever_else_was_drawn(engine):
    asked = requests(1, seed=123, ignore_eos=True)
    first = generate(engine, asked)["r0"]
    generate(engine, requests(5))
    assert np.array_equal(first.token_ids, generate(engine, asked)["r0"].token_ids)


def test_aborted_requests_never_come_back_and_others_are_untouched(engine):
    engine.add(requests(6, ignore_eos=True))
    engine.step()
    engine.abort(["r1", "r4", "never-heard-of"])
    assert engine.num_running == 4
    assert sorted(finish(engine)) == ["r0", "r2", "r3", "r5"]


def test_spans_tell_which_version_sampled_each_token_across_an_update_in_flight(engine):
    old = engine.version
    engine.add(requests(4, ignore_eos=True))
    for _ in range(4):
        assert engine.step() == []
    report = engine.update_weights(weights_of(nano(1), old + 1))
    assert report.version == old + 1 == engine.version and report.paused_s >= 0
    engine.add([replace(r, id=f"new-{r.id}") for r in requests(2, ignore_eos=True)])
    done = finish(engine)
    for i in range(4):
        assert done[f"r{i}"].version_spans == ((old, 0, 4), (old + 1, 4, 10))
    assert done["new-r0"].version_spans == ((old + 1, 0, 10),)


def test_an_update_whose_bytes_changed_is_refused_and_the_old_weights_stay(engine):
    engine.update_weights(weights_of(nano(2), engine.version + 1))
    before, version = engine.logprobs(prompt(3)), engine.version
    update = weights_of(nano(3), version + 1)
    update.buckets[0][5] ^= 4
    with pytest.raises(WeightSyncError, match="digest"):
        engine.update_weights(update)
    assert engine.version == version
    assert np.array_equal(engine.logprobs(prompt(3)), before)
    assert len(generate(engine, requests(2))) == 2


def test_logprobs_has_one_entry_per_predicted_token_and_leaves_running_requests_alone(engine):
    engine.reseed(3)
    alone = generate(engine, requests(3, ignore_eos=True, temperature=0.0))
    engine.add(requests(3, ignore_eos=True, temperature=0.0))
    engine.step()
    scores = engine.logprobs(prompt(9, 30))
    assert scores.shape == (29,) and scores.dtype == np.float32 and (scores <= 0).all()
    done = finish(engine)
    assert {k: r.token_ids.shape for k, r in done.items()} == {k: r.token_ids.shape for k, r in alone.items()}


def test_scoring_does_not_wait_for_requests_that_fill_the_engine(engine):
    engine.add(requests(MAX_RUNNING + 4, ignore_eos=True, max_tokens=100))
    engine.step()
    assert engine.logprobs(prompt(2, 20)).shape == (19,)
    assert engine.num_running == MAX_RUNNING + 4
    engine.abort([r.id for r in requests(MAX_RUNNING + 4)])
    assert engine.num_running == 0
