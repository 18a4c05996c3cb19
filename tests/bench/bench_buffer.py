"""What the replay buffer costs: payload throughput against the bare object store, and cost per operation against its size.

    python tests/bench/bench_buffer.py [--groups 64] [--steps 3] [--rounds 9]

Throughput: a producer process streams 1 MB Arrow batches to this process while this process reads them. Ways: (raw) plain
`ray.put` references, (refs) the same references through a buffer actor with leases, rewards, sampling and confirmation,
(adopted) payloads that the buffer comes to own, as in a real run. Ways alternate within a round; a ratio is the median over
rounds. Per-operation cost: the pure core in this process, garbage collector off.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from report import emit

from rayrl.buffer.core import BufferCore
from rayrl.buffer.scoring import RewardRules
from rayrl.buffer.service import BufferService
from rayrl.config.schema import BufferConfig
from rayrl.types import GroupInfo, Prompt, PromptTask, RewardRecord, RewardStatus, SamplingParams

PAYLOAD_BYTES = 2**20
CHUNK = 16
"""Groups that the producer makes between two calls."""
N = 8
"""Samples per group."""
LENGTHS = np.full(N, 64, dtype=np.int32)
RECORDS = [[RewardRecord("exact", RewardStatus.SCORED, float(i % 2))] for i in range(N)]


def weighted(components, weights):
    return sum(components[name] * np.float32(weight) for name, weight in weights.items())


def task(ordinal: int) -> PromptTask:
    return PromptTask(Prompt(ordinal, np.arange(64, dtype=np.int32)), N, SamplingParams())


def info(ordinal: int, payload: Any, version: int = 0) -> GroupInfo:
    return GroupInfo(ordinal, payload, PAYLOAD_BYTES, LENGTHS, LENGTHS, version, version)


# ---- throughput ----------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0, max_concurrency=8)
class Producer:
    def __init__(self) -> None:
        self._batch = pa.record_batch([pa.array(np.arange(PAYLOAD_BYTES // 8, dtype=np.int64))], names=["x"])

    def raw(self, count: int) -> list:
        return [ray.put(self._batch) for _ in range(count)]

    def through(self, buffer: Any, groups: int, me: Any) -> None:
        """``me``: leave tickets for the buffer to adopt; None: put references."""
        while groups > 0:
            leased = ray.get(buffer.lease_prompts.remote("w", 0, CHUNK, 10.0))
            payloads = [ray.put(self._batch) if me is None else (me, t.prompt.ordinal) for t in leased]
            ray.get(buffer.put_groups.remote("w", [info(t.prompt.ordinal, p) for t, p in zip(leased, payloads, strict=True)]))
            groups -= len(leased)

    def hand_over(self, key: int) -> pa.RecordBatch:
        return self._batch


def adopt(payload: Any) -> Any:
    """As the runtime does it: the result of an actor call belongs to the caller, here the buffer."""
    if not isinstance(payload, tuple):
        return payload
    maker, key = payload
    ref = maker.hand_over.remote(key)
    ray.wait([ref], fetch_local=False, timeout=60)
    return ref


def raw_seconds(producer: Any, groups: int, steps: int) -> float:
    """The producer is two chunks ahead, so that putting and getting overlap."""
    started, total, chunks = time.perf_counter(), 0, groups * steps // CHUNK
    coming = [producer.raw.remote(CHUNK) for _ in range(2)]
    for i in range(chunks):
        total += sum(batch.nbytes for batch in ray.get(ray.get(coming.pop(0))))
        if i + 2 < chunks:
            coming.append(producer.raw.remote(CHUNK))
    seconds = time.perf_counter() - started
    assert total >= groups * steps * PAYLOAD_BYTES
    return seconds


def buffer_seconds(buffer: Any, producer: Any, groups: int, steps: range, *, adopted: bool) -> float:
    """The driver admits two steps ahead; a thread scores; this thread samples, reads and confirms."""
    count, total = groups * len(steps), 0

    def score() -> None:
        left = count
        while left > 0:
            leased = ray.get(buffer.lease_unscored.remote("s", "verifiers", groups, 10.0))
            ray.get(buffer.put_rewards.remote("s", {i.ordinal: RECORDS for i in leased}))
            left -= len(leased)

    def admit(step: int) -> None:
        buffer.admit.remote([task(step * groups + i) for i in range(groups)])

    started = time.perf_counter()
    producing = producer.through.remote(buffer, count, producer if adopted else None)
    scoring = threading.Thread(target=score)
    scoring.start()
    for step in steps[:2]:
        admit(step)
    for step in steps:
        batch = ray.get(buffer.sample.remote(step, 0, groups, 60.0))
        total += sum(payload.nbytes for payload in ray.get([g.info.payload for g in batch.groups]))
        ray.get(buffer.confirm_trained.remote(step, batch.ordinals))
        if step + 2 in steps:
            admit(step + 2)
    seconds = time.perf_counter() - started
    scoring.join(timeout=60)
    ray.get(producing, timeout=60)
    assert total >= count * PAYLOAD_BYTES
    return seconds


def throughput(groups: int, steps: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to the bare store, and MB/s of each way."""
    ray.init(num_cpus=2, object_store_memory=500 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        producer = Producer.remote()
        service = ray.remote(num_cpus=0, max_concurrency=16)(BufferService)
        buffer = service.remote(BufferConfig(max_staleness=10**6), weights={"exact": 1.0}, aggregate=weighted, adopt=adopt)
        seconds: dict[str, list[float]] = {"raw": [], "refs": [], "adopted": []}
        for round_ in range(rounds + 1):
            first = 2 * round_ * steps
            now = {
                "refs": buffer_seconds(buffer, producer, groups, range(first, first + steps), adopted=False),
                "raw": raw_seconds(producer, groups, steps),
                "adopted": buffer_seconds(buffer, producer, groups, range(first + steps, first + 2 * steps), adopted=True),
            }
            if round_:  # the first one warms processes and pages
                for way, value in now.items():
                    seconds[way].append(value)
    finally:
        ray.shutdown()
    ratios = {way: statistics.median(r / s for r, s in zip(seconds["raw"], seconds[way], strict=True)) for way in ("refs", "adopted")}
    megabytes = groups * steps * PAYLOAD_BYTES / 1e6
    return ratios, {way: round(megabytes / statistics.median(values), 1) for way, values in seconds.items()}


# ---- cost per operation --------------------------------------------------------------------------------------------------


def operation_seconds(items: int, cycles: int = 2000) -> dict[str, float]:
    """Seconds per operation with ``items`` live groups: a quarter each queued, in flight, unscored and ready."""
    config = BufferConfig(max_staleness=10**6, max_bytes=2**62, max_groups=2**62)
    core = BufferCore(config, RewardRules({"exact": 1.0}, weighted))
    spent: dict[str, float] = {}

    def timed(name: str, call, *args, **kwargs):
        started = time.perf_counter()
        result = call(*args, **kwargs)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
        return result

    quarter = items // 4
    core.admit([task(i) for i in range(items)])
    leased = core.lease_prompts("w", 0, 3 * quarter, now=0.0)
    core.put_groups("w", [info(t.prompt.ordinal, None) for t in leased[: 2 * quarter]])
    core.put_rewards("s", {i.ordinal: RECORDS for i in core.lease_unscored("s", "verifiers", quarter, now=0.0)})
    in_flight = [t.prompt.ordinal for t in leased[2 * quarter :]]
    gc.collect()
    gc.disable()  # its pauses are the interpreter's, and hit whichever operation happens to run
    for cycle in range(cycles):
        timed("admit", core.admit, [task(items + cycle)])
        [prompt] = timed("lease_prompts", core.lease_prompts, "w", 0, 1, now=1.0)
        in_flight.append(prompt.prompt.ordinal)
        timed("put_groups", core.put_groups, "w", [info(in_flight[cycle], None)])
        [unscored] = timed("lease_unscored", core.lease_unscored, "s", "verifiers", 1, now=1.0)
        timed("put_rewards", core.put_rewards, "s", {unscored.ordinal: RECORDS})
        batch = timed("select", core.select, cycle, 0, 1)
        timed("confirm_trained", core.confirm_trained, cycle, batch.ordinals)
        timed("expire", core.expire, 1.0)
        timed("stats", core.stats)
    gc.enable()
    assert core.outstanding()["live"] == items
    return {name: seconds / cycles for name, seconds in spent.items()}


def operation_cost(rounds: int) -> tuple[float, dict[str, dict[str, float]]]:
    """Cost of a group's whole life at 1e5 live groups relative to 1e3 (best of rounds), and microseconds per operation."""
    best: dict[int, dict[str, float]] = {}
    for _ in range(rounds):
        for items in (10**3, 10**5):
            for name, seconds in operation_seconds(items).items():
                kept = best.setdefault(items, {})
                kept[name] = min(seconds, kept.get(name, seconds))
    total = {items: sum(costs.values()) for items, costs in best.items()}
    micro = {f"{items:.0e}".replace("e+0", "e"): {n: round(1e6 * s, 1) for n, s in costs.items()} for items, costs in best.items()}
    return total[10**5] / total[10**3], micro


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=64, help="groups of 1 MB per step")
    parser.add_argument("--steps", type=int, default=3, help="steps per round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    growth, micro = operation_cost(min(args.rounds, 3))
    ratios, rates = throughput(args.groups, args.steps, args.rounds)
    ok = emit(
        "buffer",
        {"throughput_refs": ratios["refs"], "throughput_adopted": ratios["adopted"], "cost_1e5_over_1e3": growth},
        {"throughput_refs": (">=", 0.8), "cost_1e5_over_1e3": ("<=", 1.5)},
        megabytes_per_s=rates,
        microseconds_per_operation=micro,
        groups=args.groups,
        steps=args.steps,
        rounds=args.rounds,
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
