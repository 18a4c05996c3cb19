"""vLLM in a process of its own keeps the engine contract too (everything but bit-for-bit order)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rollout"))
pytest.register_assert_rewrite("engine_contract", "model_contract")

from engine_contract import (  # noqa: E402
    MAX_LENGTH,
    MAX_RUNNING,
    generate,
    hf_logprobs,
    nano,
    prompt,
    requests,
    save_nano,
    test_a_prompt_that_does_not_fit_is_refused_and_nothing_of_its_call_is_queued,  # noqa: F401
    test_aborted_requests_never_come_back_and_others_are_untouched,  # noqa: F401
    test_an_update_whose_bytes_changed_is_refused_and_the_old_weights_stay,  # noqa: F401
    test_every_request_finishes_once_and_carries_a_logprob_and_a_version_for_each_token,  # noqa: F401
    test_ignore_eos_samples_to_the_limit_of_each_request,  # noqa: F401
    test_scoring_does_not_wait_for_requests_that_fill_the_engine,  # noqa: F401
    weights_of,
)
from model_contract import (  # noqa: E402
    test_canary_gap_is_small_under_the_right_weights_and_large_under_any_other,  # noqa: F401
    test_logprobs_are_those_of_the_sampled_distribution,  # noqa: F401
)

from rayrl.config.schema import ModelConfig, RolloutConfig  # noqa: E402
from rayrl.protocols import Engine  # noqa: E402
from rayrl.rollout.select import vllm_obstacle  # noqa: E402
from rayrl.types import GenerationRequest, SamplingParams  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(vllm_obstacle()), reason=f"vllm cannot run here: {vllm_obstacle()}"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    from rayrl.rollout.vllm_async import AsyncVllmEngine

    model = ModelConfig(path=str(save_nano(tmp_path_factory.mktemp("nano"))), dtype="float32", max_length=MAX_LENGTH)
    engine = AsyncVllmEngine(model, RolloutConfig(max_running=MAX_RUNNING, kv_cache_gib=0.1, cpu_threads=1))
    yield engine
    engine.close()


def test_an_update_in_flight_splits_the_spans_and_new_requests_see_only_new_weights(engine):
    old, model = engine.version, nano(1)
    engine.add([GenerationRequest("long", prompt(0), SamplingParams(max_tokens=200, ignore_eos=True))])
    engine.logprobs(prompt(0))  # a round trip: the long request is under way
    report = engine.update_weights(weights_of(model, old + 1, prompt(4, 40)))
    assert report.canary_gap < 1e-4 and report.paused_s < 5
    done = generate(engine, requests(2, ignore_eos=True, temperature=0.0))
    spans = done["long"].version_spans
    assert [s.version for s in spans] == [old, old + 1] and spans[-1].end == 200
    for key in ("r0", "r1"):
        ids = [*prompt(int(key[1:])), *done[key].token_ids]
        assert done[key].version_spans == ((old + 1, 0, 10),)
        assert np.abs(hf_logprobs(model, ids)[11:] - done[key].logprobs).mean() < 1e-4
