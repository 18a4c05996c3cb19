"""Weights from the learner's GPU memory to vLLM's, without the host: CUDA IPC on one GPU, NCCL between two."""

from __future__ import annotations

import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rollout"))

from engine_contract import MAX_LENGTH, MAX_RUNNING, hf_logprobs, nano, prompt, save_nano

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.sync.plan import plan, wire_items

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
BUCKET_BYTES = 1 << 15


def engine_of(folder: Path, transport: str):
    from rayrl.rollout.vllm_async import AsyncVllmEngine

    model = ModelConfig(path=str(save_nano(folder)), dtype="float32", max_length=MAX_LENGTH)
    return AsyncVllmEngine(model, RolloutConfig(max_running=MAX_RUNNING, gpu_memory_utilization=0.2), transport=transport)


def export(carrier, seed: int, device: torch.device):
    model = nano(seed)
    canary = prompt(4, 40)
    expected = hf_logprobs(model, canary)
    tensors = dict(wire_items(model.to(device).named_parameters(), tied=True))
    layout = plan(((name, t.shape, t.dtype) for name, t in tensors.items()), BUCKET_BYTES)
    carrier.begin()
    for index in range(len(layout.bucket_nbytes)):
        carrier.add(layout, index, tensors)
    return replace(carrier.announce(layout, seed), canary_token_ids=canary, canary_logprobs=expected)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")
def test_an_engine_on_the_learners_gpu_reads_its_weights_in_place_also_after_sleep(tmp_path):
    from rayrl.learner.vllm_transfer import IpcCarrier

    engine, device = engine_of(tmp_path, "ipc"), torch.device("cuda", 0)
    carrier = IpcCarrier(0, device)
    engine.join_transfer("", 0, 0, BUCKET_BYTES)
    for seed in (1, 2):
        assert engine.update_weights(export(carrier, seed, device)).canary_gap < 1e-3
        assert engine.sleep() > 0
        carrier.release()
        engine.wake()
    engine.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_an_engine_on_another_gpu_receives_the_broadcast(tmp_path):
    from rayrl.learner.vllm_transfer import NcclCarrier

    engine, device = engine_of(tmp_path, "nccl"), torch.device("cuda", 1)
    torch.cuda.set_device(device)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    carrier = NcclCarrier(0, device, buffer_bytes=BUCKET_BYTES, limit_s=60.0)
    joining = threading.Thread(target=engine.join_transfer, args=(address, 1, 2, BUCKET_BYTES))
    joining.start()
    carrier.open(address, 2)
    joining.join(timeout=120)
    for seed in (1, 2, 3):
        assert engine.update_weights(export(carrier, seed, device)).canary_gap < 1e-3
    engine.close()
