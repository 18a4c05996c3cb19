"""What engines with a model must compute: star-import into a module whose fixture ``engine`` runs the weights of ``nano(0)`` in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_contract import finish, generate, hf_logits, hf_logprobs, nano, prompt, requests, weights_of

from rayrl.errors import WeightSyncError
from rayrl.models import tiny
from rayrl.types import FinishReason, GenerationRequest, SamplingParams


def reference_logprobs(logits: np.ndarray, p: SamplingParams) -> np.ndarray:
    """float64[V]: the sampled distribution of one position, token by token in numpy."""
    z = logits / p.temperature
    probs = np.exp(z - z.max())
    probs /= probs.sum()
    probs[probs < p.min_p * probs.max()] = 0
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    if p.top_k:
        probs[order[p.top_k :]] = 0
        probs /= probs.sum()
    mass, kept = 0.0, []
    for token in order:
        if mass >= p.top_p:
            break
        kept.append(token)
        mass += probs[token]
    out = np.full(probs.shape, -np.inf)
    out[kept] = np.log(probs[kept] / probs[kept].sum(), where=probs[kept] > 0, out=np.full(len(kept), -np.inf))
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_tokens=24, ignore_eos=True),
        SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.7),
        SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.7, top_p=0.9),
        SamplingParams(max_tokens=24, ignore_eos=True, temperature=1.3, top_k=5, min_p=0.05),
    ],
    ids=["plain", "temperature", "top-p", "top-k-min-p"],
)
def test_logprobs_are_those_of_the_sampled_distribution(engine, sampling):
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    engine.reseed(1)
    model, gaps = nano(0), []
    for key, result in generate(engine, [GenerationRequest(f"r{i}", prompt(i, 5 + i), sampling) for i in range(8)]).items():
        start = 5 + int(key[1:])
        logits = hf_logits(model, [*prompt(int(key[1:]), start), *result.token_ids])
        for j, token in enumerate(result.token_ids):
            gaps.append(abs(reference_logprobs(logits[start - 1 + j], sampling)[token] - result.logprobs[j]))
    assert len(gaps) == 8 * 24 and np.mean(gaps) < 1e-4


def test_greedy_follows_the_models_argmax_and_reports_temperature_one_logprobs(engine):
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    model, compared = nano(0), 0
    for key, result in generate(engine, requests(6, temperature=0.0, max_tokens=30)).items():
        ids = [*prompt(int(key[1:])), *result.token_ids]
        logits = hf_logits(model, ids)[11:-1]
        top = np.sort(logits, -1)
        clear = top[:, -1] - top[:, -2] > 1e-4
        assert (logits.argmax(-1) == result.token_ids)[clear].all()
        assert np.abs(hf_logprobs(model, ids)[11:] - result.logprobs).mean() < 1e-4
        compared += int(clear.sum())
    assert compared > 50


def test_engine_logprobs_equal_a_plain_forward_pass(engine):
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    assert np.abs(engine.logprobs(prompt(5, 60)) - hf_logprobs(nano(0), prompt(5, 60))).mean() < 1e-5


def test_canary_gap_is_small_under_the_right_weights_and_large_under_any_other(engine):
    for seed in (4, 5):
        right = weights_of(nano(seed), engine.version + 1, prompt(8, 40))
        report = engine.update_weights(right)
        assert report.digest == right.manifest.digest and report.canary_gap < 1e-4 and report.canary_logprobs.shape == (39,)
    wrong = weights_of(nano(6), engine.version + 1, prompt(8, 40))
    wrong.canary_logprobs[:] = hf_logprobs(nano(5), prompt(8, 40))
    assert engine.update_weights(wrong).canary_gap > 0.1


def test_a_prefix_cached_under_old_weights_never_serves_a_new_request(engine):
    asked = requests(3, length=200, ignore_eos=True)
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    for _ in range(2):
        generate(engine, asked)
    engine.add([GenerationRequest("still-running", prompt(0, 200), SamplingParams(max_tokens=40, ignore_eos=True))])
    engine.step()
    model = nano(1)
    engine.update_weights(weights_of(model, engine.version + 1))
    engine.add(asked)
    new = finish(engine)
    for r in asked:
        ids = [*r.token_ids, *new[r.id].token_ids]
        assert np.abs(hf_logprobs(model, ids)[199:] - new[r.id].logprobs).mean() < 1e-4
        assert np.abs(hf_logprobs(nano(0), ids)[199:] - new[r.id].logprobs).mean() > 1e-2


def test_a_stop_string_ends_the_completion_and_stays_in_it(engine):
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    tokenizer = tiny.build_tokenizer()
    engine.reseed(2)
    free = generate(engine, requests(8, max_tokens=40, temperature=0.0, ignore_eos=True))
    text = {key: tokenizer.decode(r.token_ids, skip_special_tokens=True) for key, r in free.items()}
    stops = tuple(dict.fromkeys(t[4:6] for t in text.values() if len(t) > 8))
    assert stops
    for key, r in generate(engine, requests(8, max_tokens=40, temperature=0.0, ignore_eos=True, stop=stops)).items():
        full, cut = text[key], tokenizer.decode(r.token_ids, skip_special_tokens=True)
        found = [full.index(s) + len(s) for s in stops if s in full]
        assert r.finish_reason is (FinishReason.STOP if found else FinishReason.LENGTH)
        assert cut == (full[: min(found)] if found else full)


def test_stop_tokens_end_the_completion(engine):
    engine.update_weights(weights_of(nano(0), engine.version + 1))
    free = generate(engine, requests(4, temperature=0.0, ignore_eos=True))
    for key, r in free.items():
        stop = int(r.token_ids[3])
        first = int(np.flatnonzero(r.token_ids == stop)[0])
        asked = [
            GenerationRequest(
                key, prompt(int(key[1:])), SamplingParams(max_tokens=10, temperature=0.0, stop_token_ids=(stop,), ignore_eos=True)
            )
        ]
        cut = generate(engine, asked)[key]
        assert cut.finish_reason is FinishReason.STOP and np.array_equal(cut.token_ids, r.token_ids[: first + 1])


def test_weights_of_another_model_are_refused_by_name(engine):
    update = weights_of(tiny.build_model(replace(tiny.NANO, intermediate=64)), engine.version + 1)
    with pytest.raises(WeightSyncError, match=r"mlp\.gate_proj\.weight is \(64, 64\), the engine's is \(128, 64\)"):
        engine.update_weights(update)
