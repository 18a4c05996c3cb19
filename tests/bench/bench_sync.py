"""What a weight update costs: the pause of a generating engine, and the sender's work against its size and the number of receivers.

    python tests/bench/bench_sync.py [rounds]

Pause: the 4.7 M-parameter model in bf16 under vLLM, 64 sequences in flight over every update, canary included in the round
but not in the pause. Sender: 128 MiB of tensors in 64 MiB buckets through Ray's object store to 1 and to 4 receiver
processes that map and re-digest them; numbers of receivers alternate. Its yardstick is one copy of the same bytes into
shared memory. The CPU time of the sender is measured until every receiver has reported.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from multiprocessing import shared_memory

import numpy as np
import ray
import torch
from report import emit

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.models import tiny
from rayrl.rollout.vllm import VllmEngine
from rayrl.runtime.store import RayStore
from rayrl.sync.plan import digest, manifest, pack_bucket, plan, unpack, verify, wire_items
from rayrl.types import GenerationRequest, SamplingParams, VersionSpan, WeightManifest, WeightUpdate

PAUSE_S, FLATNESS = 0.1, 1.3
BUCKET_BYTES = 2**26
RECEIVERS = (1, 4)
CALL_S = 120.0


def tensors() -> dict[str, torch.Tensor]:
    """32 matrices of 4 MiB in bfloat16."""
    torch.manual_seed(0)
    return {f"layers.{i}.weight": torch.randn(1024, 2048).bfloat16() for i in range(32)}


@ray.remote(num_cpus=0)
class Receiver:
    def load(self, announced: WeightManifest, refs: list) -> str:
        store = RayStore(CALL_S)
        buckets = [store.get(ref, timeout_s=CALL_S) for ref in refs]
        verify(announced, buckets)
        assert sum(t.nbytes for _, t in unpack(announced, buckets)) == announced.nbytes
        return announced.digest


def send(store: RayStore, weights: dict[str, torch.Tensor], version: int) -> tuple[WeightManifest, list]:
    """What the learner's rank 0 does."""
    layout = plan(((name, t.shape, t.dtype) for name, t in weights.items()), BUCKET_BYTES)
    digests, refs = [], []
    for index in range(len(layout.bucket_nbytes)):
        bucket = pack_bucket(layout, index, weights)
        digests.append(digest(bucket))
        refs.append(store.put(bucket))
    return manifest(layout, version, digests), refs


def sender(rounds: int) -> dict[str, float]:
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, include_dashboard=False, log_to_driver=False)
    weights, store = tensors(), RayStore(CALL_S)
    nbytes = sum(t.nbytes for t in weights.values())
    receivers = [Receiver.remote() for _ in range(max(RECEIVERS))]
    memory = shared_memory.SharedMemory(create=True, size=nbytes)
    source, target = np.ones(nbytes, np.uint8), np.frombuffer(memory.buf, np.uint8)
    wall: dict[int, list[float]] = {n: [] for n in RECEIVERS}
    cpu: dict[int, list[float]] = {n: [] for n in RECEIVERS}
    copies: list[float] = []
    for round_ in range(rounds + 1):
        started = time.perf_counter()
        np.copyto(target, source)
        if round_:
            copies.append(time.perf_counter() - started)
        for count in RECEIVERS:
            started, cpu_started = time.perf_counter(), time.process_time()
            announced, refs = send(store, weights, round_)
            sent = time.perf_counter() - started
            reports = ray.get([r.load.remote(announced, refs) for r in receivers[:count]], timeout=CALL_S)
            assert set(reports) == {announced.digest}
            if round_:  # the first round maps pages and starts processes
                wall[count].append(sent)
                cpu[count].append(time.process_time() - cpu_started)
            del refs
    del target
    memory.close()
    memory.unlink()
    ray.shutdown()
    one, many = RECEIVERS
    return {
        "sender_cpu_4_receivers_over_1": statistics.median(b / a for a, b in zip(cpu[one], cpu[many], strict=True)),
        "sender_wall_over_one_copy": statistics.median(w / c for w, c in zip(wall[one], copies, strict=True)),
        "copy_s": statistics.median(copies),
        "sender_wall_s": statistics.median(wall[one]),
        "mib": nbytes / 2**20,
    }


def pauses(rounds: int) -> list[float]:
    """Seconds without generation, one per update with 64 sequences in flight."""
    folder = tiny.save(tempfile.mkdtemp(prefix="rayrl-bench-"), tiny.BENCH, dtype=torch.bfloat16)
    model = ModelConfig(path=str(folder), dtype="bfloat16", max_length=1024)
    engine = VllmEngine(model, RolloutConfig(max_running=64, kv_cache_gib=0.5, cpu_threads=1))
    rng, found = np.random.default_rng(0), []
    params = SamplingParams(max_tokens=10 * (rounds + 1), ignore_eos=True)
    engine.add([GenerationRequest(f"r{i}", rng.integers(3, 99, 16).astype(np.int32), params) for i in range(64)])
    for version in range(1, rounds + 2):
        for _ in range(5):
            assert not engine.step()
        weights = dict(wire_items(tiny.build_model(tiny.BENCH, seed=version).named_parameters(), tied=True))
        layout = plan(((name, t.shape, torch.bfloat16) for name, t in weights.items()), BUCKET_BYTES)
        buckets = [pack_bucket(layout, i, weights) for i in range(len(layout.bucket_nbytes))]
        canary = rng.integers(3, 99, 32).astype(np.int32)
        report = engine.update_weights(WeightUpdate(manifest(layout, version, map(digest, buckets)), buckets, canary))
        assert engine.num_running == 64
        if version > 1:
            found.append(report.paused_s)
    done = []
    while engine.num_running:
        done += engine.step()
    assert all(VersionSpan(version, s.start, s.end) == s for r in done for version, s in enumerate(r.version_spans))
    engine.close()
    return found


def main(rounds: int) -> bool:
    stood_still = pauses(rounds)
    details = sender(rounds)
    ratios = {key: details.pop(key) for key in ("sender_cpu_4_receivers_over_1", "sender_wall_over_one_copy")}
    ratios["pause_over_100_ms"] = statistics.median(stood_still) / PAUSE_S
    return emit(
        "sync",
        ratios,
        {"sender_cpu_4_receivers_over_1": ("<=", FLATNESS), "pause_over_100_ms": ("<=", 1.0)},
        pause_ms=[round(1000 * p, 1) for p in stood_still],
        **{key: round(value, 4) for key, value in details.items()},
    )


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 9) else 1)
