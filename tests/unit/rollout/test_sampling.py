"""Draws follow the distribution whose log-probs are reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_contract import reference_logprobs

from rayrl.rollout.sampling import draw, processed_logprobs
from rayrl.types import SamplingParams

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.2, 0.77, 1.0]),
    top_k=st.sampled_from([0, 1, 4, 500]),
    min_p=st.sampled_from([0.0, 0.03, 0.4]),
)


def is_sharp(logits: np.ndarray, params: SamplingParams) -> bool:
    """No token lies so close to a cut that float32 and float64 may disagree about it."""
    near = [replace(params, top_p=min(1.0, params.top_p * f), min_p=params.min_p * f) for f in (1 - 1e-5, 1.0, 1 + 1e-5)]
    kept = [np.isfinite(reference_logprobs(logits, p)) for p in near]
    return all(np.array_equal(kept[0], k) for k in kept)


@settings(max_examples=80, deadline=None)
@given(st.lists(PARAMS, min_size=1, max_size=5), st.integers(0, 2**31))
def test_processed_logprobs_equal_a_token_by_token_reference(params, seed):
    logits = np.random.default_rng(seed).normal(0, 2, (len(params), 23))
    assume(all(is_sharp(row, p) for row, p in zip(logits, params, strict=True)))
    found = processed_logprobs(torch.tensor(logits), params).numpy()
    for row, p in enumerate(params):
        expected = reference_logprobs(logits[row], p)
        assert np.array_equal(np.isfinite(expected), np.isfinite(found[row]))
        kept = np.isfinite(expected)
        np.testing.assert_allclose(found[row][kept], expected[kept], atol=2e-5)


def test_a_greedy_row_takes_the_argmax_and_keeps_temperature_one_logprobs():
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    params = [SamplingParams(temperature=0.0, top_p=0.1, top_k=2)] * 6
    logprobs = processed_logprobs(logits, params)
    assert torch.allclose(logprobs, logits.log_softmax(-1))
    assert torch.equal(draw(logprobs, params, torch.Generator(), [None] * 6), logits.argmax(-1))


@pytest.mark.parametrize("seeded", [False, True])
def test_frequencies_follow_the_reported_probabilities(seeded):
    count, params = 40_000, SamplingParams(temperature=0.8, top_p=0.9)
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)).repeat(count if not seeded else 1, 1)
    logprobs = processed_logprobs(logits, [params] * len(logits))
    if seeded:
        own = torch.Generator().manual_seed(9)
        draws = torch.cat([draw(logprobs, [params], torch.Generator(), [own]) for _ in range(8000)])
    else:
        draws = draw(logprobs, [params] * count, torch.Generator().manual_seed(9), [None] * count)
    observed = np.bincount(draws.numpy(), minlength=12)
    expected = logprobs[0].exp().numpy() * len(draws)
    assert (observed[expected == 0] == 0).all()
    kept = expected > 0
    chi2 = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert chi2 < 35  # 99.9 % quantile at 11 degrees of freedom is 31


def test_a_rows_own_generator_makes_its_draw_independent_of_the_others():
    logprobs = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    params = [SamplingParams()] * 3
    tokens = [draw(logprobs, params, torch.Generator().manual_seed(s), [None, torch.Generator().manual_seed(4), None])[1] for s in range(5)]
    assert len({int(t) for t in tokens}) == 1
