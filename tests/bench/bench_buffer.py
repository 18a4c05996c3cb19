"""What the replay buffer costs: payload throughput against the bare object store, and cost per operation against its size.

    python tests/bench/bench_buffer.py [--payload-mib 4] [--step-mib 256] [--rounds 9]

Throughput: a producer process streams Arrow batches to this process, 256 MiB a step, while this process reads them. That is a
step of 1,000 samples of 15,000 tokens: with much smaller ones no run is short of throughput, and the ratio shows the cost of calls.
Ways: (raw) plain `ray.put` references handed straight to the reader, a step at a time; (relay) the same references through an
actor that does nothing but hold them, the least that any buffer costs; (refs) through the buffer with leases, rewards,
sampling and confirmation; (adopted) the same with payloads that the buffer comes to own, as in a real run. Ways alternate
within a round; a ratio is the median over rounds. 4 MiB is a group of 16 samples of 30,000 tokens; what the buffer costs per
group does not depend on its bytes, so the ratio falls for small groups (where no run is short of throughput). Run it on an
idle machine: four processes share the cores, and the ways with more calls suffer most from neighbours.

Per-operation cost: the pure core in this process, garbage collector off.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from report import emit

from rayrl.buffer.core import BufferCore
from rayrl.buffer.scoring import RewardRules
from rayrl.buffer.service import BufferService
from rayrl.config.schema import BufferConfig
from rayrl.runtime.store import RayStore, Ticket
from rayrl.types import GroupInfo, Prompt, PromptTask, RewardRecord, RewardStatus, SamplingParams

CHUNKS = 4
"""Calls in which the producer hands over the groups of one step."""
LANES = 2
"""Threads of the producer, so that it copies while its calls are answered."""
AHEAD = 2
"""Steps under way at once, whichever way: what waits in the store is the same, and so are its caches and pages."""
N = 8
"""Samples per group."""
LENGTHS = np.full(N, 64, dtype=np.int32)
RECORDS = [[RewardRecord("exact", RewardStatus.SCORED, float(i % 2))] for i in range(N)]
WAYS = ("raw", "relay", "refs", "adopted")


def weighted(components, weights):
    return sum(components[name] * np.float32(weight) for name, weight in weights.items())


def task(ordinal: int) -> PromptTask:
    return PromptTask(Prompt(ordinal, np.arange(64, dtype=np.int32)), N, SamplingParams())


def info(ordinal: int, payload: Any) -> GroupInfo:
    return GroupInfo(ordinal, payload, 2**20, LENGTHS, LENGTHS, 0, 0)


# ---- throughput ----------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0, max_concurrency=8)
class Producer:
    def __init__(self, payload_bytes: int) -> None:
        self._batch = pa.record_batch([pa.array(np.arange(payload_bytes // 8, dtype=np.int64))], names=["x"])

    def raw(self, count: int) -> list:
        return [ray.put(self._batch) for _ in range(count)]

    def relay(self, holder: Any, count: int) -> None:
        ray.get(holder.put.remote([ray.put(self._batch) for _ in range(count)]))

    def through(self, buffer: Any, lane: int, groups: int, chunk: int, me: Any) -> None:
        """``me``: leave tickets for the buffer to adopt; None: put references."""
        while groups > 0:
            leased = ray.get(buffer.lease_prompts.remote(f"w{lane}", lane, min(chunk, groups), 10.0))
            payloads = [ray.put(self._batch) if me is None else Ticket(me, t.prompt.ordinal) for t in leased]
            ray.get(buffer.put_groups.remote(f"w{lane}", [info(t.prompt.ordinal, p) for t, p in zip(leased, payloads, strict=True)]))
            groups -= len(leased)

    def hand_over(self, keys: list[int]) -> Any:
        return [self._batch] * len(keys) if len(keys) > 1 else self._batch


@ray.remote(num_cpus=0)
class Holder:
    def __init__(self) -> None:
        self._refs: list = []

    def put(self, refs: list) -> None:
        self._refs.append(refs)

    def take(self) -> list:
        return self._refs.pop(0)


class Stream:
    """One producer, one buffer, one reader; every method moves ``steps`` steps and returns the seconds it took."""

    def __init__(self, payload_bytes: int, step_bytes: int, steps: int) -> None:
        self.groups, self.steps, self.bytes = step_bytes // payload_bytes, steps, steps * step_bytes
        self._chunk = max(1, self.groups // CHUNKS)
        self._producer, self._holder = Producer.remote(payload_bytes), Holder.remote()
        config = BufferConfig(max_staleness=10**6, max_bytes=2**62)
        service = ray.remote(num_cpus=0, max_concurrency=16)(BufferService)
        self._buffer = service.remote(config, weights={"exact": 1.0}, aggregate=weighted, store=RayStore(60.0))
        self._step = 0

    def seconds(self, way: str) -> float:
        started = time.perf_counter()
        read = {"raw": self._raw, "relay": self._relay}.get(way) or (lambda: self._buffered(adopted=way == "adopted"))
        read_bytes = read()
        seconds = time.perf_counter() - started
        assert read_bytes >= self.bytes
        return seconds

    def _raw(self) -> int:
        return self._read(lambda: self._producer.raw.remote(self.groups), ray.get)

    def _relay(self) -> int:
        def taken(put: Any) -> list:
            ray.get(put)
            return ray.get(self._holder.take.remote())

        return self._read(lambda: self._producer.relay.remote(self._holder, self.groups), taken)

    def _read(self, ask: Callable[[], Any], refs_of: Callable[[Any], list]) -> int:
        total, left = 0, self.steps
        coming = [ask() for _ in range(AHEAD)]
        while coming:
            total += sum(batch.nbytes for batch in ray.get(refs_of(coming.pop(0))))
            left -= 1
            if left >= AHEAD:
                coming.append(ask())
        return total

    def _buffered(self, *, adopted: bool) -> int:
        """The driver admits `AHEAD` steps; a thread scores; this thread samples, reads and confirms."""
        buffer, groups, first = self._buffer, self.groups, self._step
        self._step += self.steps
        count, total = groups * self.steps, 0

        def score() -> None:
            left = count
            while left > 0:
                leased = ray.get(buffer.lease_unscored.remote("s", "verifiers", groups, 10.0))
                ray.get(buffer.put_rewards.remote("s", {i.ordinal: RECORDS for i in leased}))
                left -= len(leased)

        def admit(step: int) -> None:
            buffer.admit.remote([task(step * groups + i) for i in range(groups)])

        me = self._producer if adopted else None
        producing = [self._producer.through.remote(buffer, lane, count // LANES, self._chunk, me) for lane in range(LANES)]
        scoring = threading.Thread(target=score)
        scoring.start()
        for step in range(first, first + AHEAD):
            admit(step)
        for step in range(first, first + self.steps):
            batch = ray.get(buffer.sample.remote(step, 0, groups, 60.0))
            total += sum(payload.nbytes for payload in ray.get([g.info.payload for g in batch.groups]))
            ray.get(buffer.confirm_trained.remote(step, batch.ordinals))
            if step + AHEAD < first + self.steps:
                admit(step + AHEAD)
        scoring.join(timeout=60)
        ray.get(producing, timeout=60)
        return total


def throughput(payload_mib: int, step_mib: int, steps: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to the bare store, and MB/s of each way."""
    ray.init(address="local", num_cpus=2, object_store_memory=(AHEAD + 2) * step_mib * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        stream = Stream(payload_mib * 2**20, step_mib * 2**20, steps)
        measured = [{way: stream.seconds(way) for way in WAYS} for _ in range(rounds + 1)][1:]  # the first round warms processes and pages
    finally:
        ray.shutdown()
    ratios = {way: statistics.median(m["raw"] / m[way] for m in measured) for way in WAYS[1:]}
    return ratios, {way: round(stream.bytes / 1e6 / statistics.median(m[way] for m in measured), 1) for way in WAYS}


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payload-mib", type=int, default=4, help="size of one group")
    parser.add_argument("--step-mib", type=int, default=256, help="size of all groups of a step")
    parser.add_argument("--steps", type=int, default=4, help="steps per round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    growth, micro = operation_cost(min(args.rounds, 3))
    ratios, rates = throughput(args.payload_mib, args.step_mib, args.steps, args.rounds)
    ok = emit(
        "buffer",
        {f"throughput_{way}": ratio for way, ratio in ratios.items()} | {"cost_1e5_over_1e3": growth},
        {"throughput_refs": (">=", 0.8), "cost_1e5_over_1e3": ("<=", 1.5)},
        megabytes_per_s=rates,
        microseconds_per_operation=micro,
        **vars(args),
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
