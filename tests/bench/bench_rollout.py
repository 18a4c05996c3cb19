"""How much of bare vLLM's speed is left when a rollout worker drives it: leases, episodes, Arrow batches and publishing included.

Both sides have the same model, engine arguments and sampling parameters and take turns in alternating order; the ratio is the
median over neighbouring turns. Without a GPU both run in this process, with a model of 4.7 million parameters, and CPU time is
shown too: it hardly feels a busy machine. On a GPU each has an engine core in a process of its own and 0.4 of the memory, and the
model has half a billion parameters.

    python tests/bench/bench_rollout.py [rounds]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from report import emit

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.data.arrow import encode
from rayrl.models import tiny
from rayrl.rollout import vllm_bridge
from rayrl.rollout.select import build_engine
from rayrl.rollout.worker import RolloutWorker
from rayrl.types import Prompt, PromptTask, SamplingParams

TARGET = 0.95
GPU = torch.cuda.is_available()
SHAPE = tiny.TinyShape(hidden=896, layers=24, heads=14, intermediate=4864) if GPU else tiny.BENCH
PROMPTS, SAMPLES, TOKENS, PROMPT_LENGTH = 32, 8, 256 if GPU else 64, 16
MAX_LENGTH = 2 * (PROMPT_LENGTH + TOKENS)
SAMPLING = SamplingParams(max_tokens=TOKENS, ignore_eos=True)


class Buffer:
    """Hands out one step's prompts and counts finished groups; no network, no maths."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queued: list[PromptTask] = []
        self.done = 0

    def serve(self, tasks: list[PromptTask]) -> None:
        """Returns when all groups of ``tasks`` have been published."""
        with self.changed:
            self.done, self.queued = 0, list(tasks)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.done == len(tasks), timeout=120)

    def lease_prompts(self, worker, index, max_groups, wait_s):
        with self.changed:
            self.changed.wait_for(lambda: self.queued, timeout=wait_s)
            taken, self.queued = self.queued[:max_groups], self.queued[max_groups:]
        return taken

    def put_groups(self, worker, groups):
        with self.changed:
            self.done += len(groups)
            self.changed.notify_all()
        return [True] * len(groups)

    def fail_prompts(self, worker, ordinals, reason):
        raise AssertionError(reason)


class MemoryStore:
    def put(self, value):
        return [value]

    offer = put

    def get(self, ref, *, timeout_s):
        return ref[0]


def tasks(round_: int) -> list[PromptTask]:
    rng = np.random.default_rng(round_)
    prompts = [Prompt(round_ * PROMPTS + i, rng.integers(3, 99, PROMPT_LENGTH).astype(np.int32)) for i in range(PROMPTS)]
    return [PromptTask(p, SAMPLES, SAMPLING) for p in prompts]


def main(rounds: int) -> bool:
    encode([])
    folder = tiny.save(tempfile.mkdtemp(prefix="rayrl-bench-"), SHAPE, dtype=torch.bfloat16)
    model = ModelConfig(path=str(folder), dtype="bfloat16", max_length=MAX_LENGTH)
    rollout = RolloutConfig(
        max_running=256, kv_cache_gib=0.5, cpu_threads=1, enforce_eager=not GPU, gpu_memory_utilization=0.4, engine="vllm"
    )
    engine, _ = build_engine(model, rollout)
    from vllm import LLM

    bare = LLM(**vllm_bridge.engine_arguments(model, rollout, seed=0, cpu=not GPU))
    tokenizer = tiny.build_tokenizer()
    buffer = Buffer()
    worker = RolloutWorker("rollout-0", 0, engine, buffer, MemoryStore(), decode=tokenizer.decode, max_length=MAX_LENGTH, max_running=256)
    thread = threading.Thread(target=worker.run)
    thread.start()

    def run_bare(work: list[PromptTask]) -> None:
        inputs = [{"prompt_token_ids": t.prompt.token_ids.tolist()} for t in work for _ in range(SAMPLES)]
        outputs = bare.generate(inputs, vllm_bridge.sampling(SAMPLING), use_tqdm=False)
        assert sum(len(o.outputs[0].token_ids) for o in outputs) == PROMPTS * SAMPLES * TOKENS

    sides: dict[str, Callable[[list[PromptTask]], None]] = {"bare": run_bare, "rayrl": buffer.serve}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for i in range(rounds + 1):
            work = tasks(i)
            for name in sorted(sides, reverse=bool(i % 2)):
                started, cpu_started = time.perf_counter(), time.process_time()
                sides[name](work)
                if i:  # the first round warms both sides up
                    wall[name].append(time.perf_counter() - started)
                    cpu[name].append(time.process_time() - cpu_started)
    finally:
        worker.stop()
        thread.join(60)
    count = PROMPTS * SAMPLES * TOKENS
    pairs = [b / r for b, r in zip(wall["bare"], wall["rayrl"], strict=True)]
    return emit(
        "rollout",
        {
            "throughput_of_bare_vllm": statistics.median(pairs),
            "cpu_of_bare_vllm": statistics.median(cpu["rayrl"]) / statistics.median(cpu["bare"]),
        },
        {"throughput_of_bare_vllm": (">=", TARGET)},
        device=torch.cuda.get_device_name() if GPU else "cpu",
        pairs=[round(p, 3) for p in pairs],
        bare_tokens_per_s=round(count / statistics.median(wall["bare"])),
        rayrl_tokens_per_s=round(count / statistics.median(wall["rayrl"])),
        cpu_s={name: round(statistics.median(values), 2) for name, values in cpu.items()},
    )


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 8) else 1)
