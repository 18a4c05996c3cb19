"""What the replay buffer costs: payload throughput against the bare object store, and cost per operation against its size.

    python tests/bench/bench_buffer.py [--groups 64] [--rounds 7]

Throughput: one producer process hands 1 MB Arrow batches to this process, (raw) as plain `ray.put` references, (refs) through
a buffer actor with leases, rewards, sampling and confirmation, (adopted) the same with payloads that the buffer comes to own,
as in a real run. Rounds alternate; the ratio is the median over rounds. Per-operation cost: the pure core in this process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from report import emit

from rayrl.buffer.core import BufferCore
from rayrl.buffer.scoring import RewardRules
from rayrl.buffer.service import BufferService
from rayrl.config.schema import BatchConfig, BufferConfig
from rayrl.types import GroupInfo, Prompt, PromptTask, RewardRecord, RewardStatus, SamplingParams

PAYLOAD_BYTES = 2**20
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

    def raw(self, groups: int) -> list:
        return [ray.put(self._batch) for _ in range(groups)]

    def through(self, buffer: Any, groups: int, me: Any) -> None:
        done = 0
        while done < groups:
            for leased in _batches(ray.get(buffer.lease_prompts.remote("w", 0, groups, 10.0)), 8):
                payloads = [(me, t.prompt.ordinal) if me is not None else ray.put(self._batch) for t in leased]
                ray.get(buffer.put_groups.remote("w", [info(t.prompt.ordinal, p) for t, p in zip(leased, payloads, strict=True)]))
                done += len(leased)

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


def _batches(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def raw_seconds(producer: Any, groups: int) -> float:
    started = time.perf_counter()
    batches = ray.get(ray.get(producer.raw.remote(groups)))
    seconds = time.perf_counter() - started
    assert sum(b.nbytes for b in batches) >= groups * PAYLOAD_BYTES
    return seconds


def buffer_seconds(buffer: Any, producer: Any, groups: int, step: int, *, adopted: bool) -> float:
    started = time.perf_counter()
    ray.get(buffer.admit.remote([task(step * groups + i) for i in range(groups)]))
    producing = producer.through.remote(buffer, groups, producer if adopted else None)
    batch, scored = None, 0
    while scored < groups:
        leased = ray.get(buffer.lease_unscored.remote("s", "verifiers", 16, 10.0))
        ray.get(buffer.put_rewards.remote("s", {i.ordinal: RECORDS for i in leased}))
        scored += len(leased)
    batch = ray.get(buffer.sample.remote(step, 0, 10.0))
    batches = ray.get([g.info.payload for g in batch.groups])
    ray.get(buffer.confirm_trained.remote(step, batch.ordinals))
    seconds = time.perf_counter() - started
    ray.get(producing)
    assert len(batch.groups) == groups and sum(b.nbytes for b in batches) >= groups * PAYLOAD_BYTES
    return seconds


def throughput(groups: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to the bare store, and MB/s of each way."""
    ray.init(num_cpus=2, object_store_memory=500 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        producer = Producer.remote()
        service = ray.remote(num_cpus=0, max_concurrency=16)(BufferService)
        buffer = service.remote(
            BufferConfig(max_staleness=10**6), BatchConfig(groups_per_step=groups), weights={"exact": 1.0}, aggregate=weighted, adopt=adopt
        )
        seconds: dict[str, list[float]] = {"raw": [], "refs": [], "adopted": []}
        for step in range(rounds + 1):
            now = {
                "raw": raw_seconds(producer, groups),
                "refs": buffer_seconds(buffer, producer, groups, 2 * step, adopted=False),
                "adopted": buffer_seconds(buffer, producer, groups, 2 * step + 1, adopted=True),
            }
            if step:  # the first round warms processes and pages
                for way, value in now.items():
                    seconds[way].append(value)
    finally:
        ray.shutdown()
    ratios = {way: statistics.median(r / s for r, s in zip(seconds["raw"], seconds[way], strict=True)) for way in ("refs", "adopted")}
    return ratios, {way: round(groups * PAYLOAD_BYTES / 1e6 / statistics.median(values), 1) for way, values in seconds.items()}


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
    assert core.outstanding()["live"] == items
    return {name: seconds / cycles for name, seconds in spent.items()}


def operation_cost(rounds: int) -> tuple[float, dict[str, dict[str, float]]]:
    """Cost of a group's whole life at 1e5 live groups relative to 1e3 (best of rounds), and microseconds per operation."""
    best: dict[int, dict[str, float]] = {}
    for _ in range(rounds):
        for items in (10**3, 10**5):
            gc.collect()
            for name, seconds in operation_seconds(items).items():
                kept = best.setdefault(items, {})
                kept[name] = min(seconds, kept.get(name, seconds))
    total = {items: sum(costs.values()) for items, costs in best.items()}
    micro = {f"{items:.0e}".replace("e+0", "e"): {n: round(1e6 * s, 1) for n, s in costs.items()} for items, costs in best.items()}
    return total[10**5] / total[10**3], micro


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=64, help="groups of 1 MB per step")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    growth, micro = operation_cost(min(args.rounds, 3))
    ratios, rates = throughput(args.groups, args.rounds)
    ok = emit(
        "buffer",
        {"throughput_refs": ratios["refs"], "throughput_adopted": ratios["adopted"], "cost_1e5_over_1e3": growth},
        {"throughput_refs": (">=", 0.8), "cost_1e5_over_1e3": ("<=", 1.5)},
        megabytes_per_s=rates,
        microseconds_per_operation=micro,
        groups=args.groups,
        rounds=args.rounds,
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
