"""Weights through vLLM's own transfer engine: both halves, the thread of the learner and the proof, with another wire than NCCL."""

from __future__ import annotations

import os
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit" / "rollout")]

from engine_contract import MAX_LENGTH, MAX_RUNNING, generate, hf_logprobs, nano, prompt, requests, save_nano  # noqa: E402

from rayrl.config.schema import ModelConfig, RolloutConfig  # noqa: E402
from rayrl.rollout.select import vllm_obstacle  # noqa: E402
from rayrl.sync.plan import digest, plan, verify, wire_items  # noqa: E402
from rayrl.types import GenerationRequest, SamplingParams, WeightUpdate  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(vllm_obstacle()), reason=f"vllm cannot run here: {vllm_obstacle()}"),
]
BUCKET_BYTES = 1 << 15


@pytest.fixture(scope="module")
def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    from rayrl.rollout import vllm_bridge
    from rayrl.rollout.vllm_async import AsyncVllmEngine

    patch = pytest.MonkeyPatch()
    patch.setattr(vllm_bridge, "EXTENSION", "store_broadcast.Extension")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    model = ModelConfig(path=str(save_nano(tmp_path_factory.mktemp("nano"))), dtype="float32", max_length=MAX_LENGTH)
    rollout = RolloutConfig(max_running=MAX_RUNNING, kv_cache_gib=0.1, cpu_threads=1)
    engine = AsyncVllmEngine(model, rollout, transport="nccl", call_s=60.0)
    yield engine
    engine.close()
    patch.undo()


@pytest.fixture(scope="module")
def carrier(engine, address):
    """Connected to the engine: both wait for each other."""
    import store_broadcast  # noqa: F401

    from rayrl.learner.vllm_transfer import NcclCarrier

    carrier = NcclCarrier(0, torch.device("cpu"), buffer_bytes=BUCKET_BYTES, limit_s=30.0, packed=False)
    joining = threading.Thread(target=engine.join_transfer, args=(address, 1, 2, BUCKET_BYTES), kwargs={"packed": False})
    joining.start()
    carrier.open(address, 2)
    joining.join(timeout=60)
    assert not joining.is_alive()
    return carrier


def export(carrier, model: torch.nn.Module, version: int, canary: np.ndarray) -> WeightUpdate:
    """What a learner's rank 0 does."""
    tensors = dict(wire_items(model.named_parameters(), tied=True))
    layout = plan(((name, t.shape, t.dtype) for name, t in tensors.items()), BUCKET_BYTES)
    carrier.begin()
    for index in range(len(layout.bucket_nbytes)):
        carrier.add(layout, index, tensors)
    return replace(carrier.announce(layout, version), canary_token_ids=canary, canary_logprobs=hf_logprobs(model, canary))


def test_broadcast_weights_are_those_the_engine_computes_with_and_running_requests_go_on(engine, carrier):
    for version in (1, 2):
        model, old = nano(version), engine.version
        engine.add([GenerationRequest(f"long-{version}", prompt(0), SamplingParams(max_tokens=200, ignore_eos=True))])
        engine.logprobs(prompt(0))  # a round trip: the long request is under way
        update = export(carrier, model, version, prompt(4, 40))
        for p in model.parameters():  # the learner's next step changes its weights while the broadcast may still run
            p.data += 1.0
        report = engine.update_weights(update)
        assert report.version == version and report.canary_gap < 1e-4
        done = generate(engine, requests(2, ignore_eos=True, temperature=0.0))
        assert [s.version for s in done[f"long-{version}"].version_spans] == [old, version]


def test_a_broadcast_that_nobody_receives_is_an_error_of_the_next_round(engine, carrier):
    from rayrl.errors import WeightSyncError

    class Stuck:
        def send_weights(self):
            threading.Event().wait(5.0)

    whole, limit = carrier._engine, carrier._limit_s
    carrier._engine, carrier._limit_s = Stuck(), 0.1
    try:
        export(carrier, nano(3), 3, prompt(4, 40))
        with pytest.raises(WeightSyncError, match="did not end"):
            carrier.begin()
    finally:
        carrier._sending.join(10.0)
        carrier._engine, carrier._limit_s = whole, limit


def test_after_an_engine_was_lost_the_last_export_can_be_had_from_the_host(carrier):
    model = nano(5)
    tensors = dict(wire_items(model.named_parameters(), tied=True))
    layout = plan(((name, t.shape, t.dtype) for name, t in tensors.items()), BUCKET_BYTES)
    for index in range(len(layout.bucket_nbytes)):
        carrier.add(layout, index, tensors)
    buckets = carrier.abandon()
    from rayrl.sync.plan import manifest, unpack

    announced = manifest(layout, 5, [digest(b) for b in buckets])
    verify(announced, buckets)
    assert all(torch.equal(value, tensors[name]) for name, value in unpack(announced, buckets))
