"""How much of a bare training loop's speed the learner keeps, and what it gains on long-tailed lengths.

``python tests/bench/bench_learner.py [--dtype bfloat16] [--rounds 5] [--threads 1]``. Sides take turns in one process; medians
of tokens per second of *processor* time are compared, so that other work on the machine counts as little as it can (on a GPU:
of the wall clock). All sides train the same model, of 4.7 million parameters (on a GPU: 40 million, sequences four times as
long), on the same sequences, with AdamW and gradient clipping:

- ``bare_torch``: forward, log-softmax, policy gradient, backward, update; rows padded in arrival order, 64 to a micro-batch;
- ``bare_deepspeed``: the same loop through a DeepSpeed engine;
- ``learner``: `DeepSpeedLearner.step` on a `LearnBatch`: fetching, advantages, clipped loss, metrics and all;
- ``learner_packed``: the same with `learner.packing`.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rayrl.config.schema import Config
from rayrl.learner.deepspeed import DeepSpeedLearner, deepspeed
from rayrl.models import tiny
from rayrl.types import FinishReason, LearnBatch, Trajectory, VersionSpan

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit" / "learner")]
from learner_cases import DictStore, batch_of  # noqa: E402
from report import emit  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
SHAPE = tiny.TinyShape(hidden=512, layers=12, heads=8, intermediate=2048, max_positions=2048) if GPU else tiny.BENCH
ROWS, PROMPT, MICRO = 128, 6, 64
LONGER = 4 if GPU else 1
LONGEST = 256 * LONGER
BARE = ("torch", "deepspeed")


def equal_lengths(rng: np.random.Generator) -> np.ndarray:
    return np.full(ROWS, 64 * LONGER)


def long_tailed(rng: np.random.Generator) -> np.ndarray:
    """Log-normal, median 24, at most 256 tokens (times `LONGER`)."""
    return np.clip(rng.lognormal(np.log(24 * LONGER), 1.0, ROWS), 2, LONGEST).astype(int)


def sequences(lengths: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(3, 99, PROMPT + n).astype(np.int32) for n in lengths]


def learn_batch(store: DictStore, ids: list[np.ndarray], rng: np.random.Generator) -> LearnBatch:
    """Groups of 8 with random rewards."""
    made = []
    for i, x in enumerate(ids):
        mask = np.arange(len(x)) >= PROMPT
        logprobs = np.where(mask, -4.85, 0).astype(np.float32)
        spans = (VersionSpan(0, 0, len(x)),)
        made.append(Trajectory(f"{i // 8}/{i % 8}", i // 8, i % 8, x, mask, logprobs, spans, (), FinishReason.STOP))
    groups = [made[i : i + 8] for i in range(0, len(made), 8)]
    return batch_of(store, groups, rewards=rng.normal(size=(len(groups), 8)))


def loss_of(model, rows: list[np.ndarray], weight: float) -> torch.Tensor:
    """Policy gradient over all generated tokens of a padded micro-batch, as a straightforward loop computes it."""
    width = max(map(len, rows))
    ids, attends = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], attends[i, : len(row)] = row, 1
    ids, attends = torch.from_numpy(ids).to(DEVICE), torch.from_numpy(attends).to(DEVICE)
    logits = model(input_ids=ids, attention_mask=attends, use_cache=False).logits[:, PROMPT - 1 : -1].float()
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None]).squeeze(-1)
    return -weight * (logprobs * attends[:, PROMPT:]).sum()


def bare_torch(folder: Path, dtype: torch.dtype) -> Callable[[list[np.ndarray]], None]:
    model = tiny.build_model(SHAPE).to(DEVICE, dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(ids: list[np.ndarray]) -> None:
        for i in range(0, ROWS, MICRO):
            loss_of(model, ids[i : i + MICRO], 1e-4).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bare_deepspeed(folder: Path, dtype: torch.dtype) -> Callable[[list[np.ndarray]], None]:
    model = tiny.build_model(SHAPE).to(DEVICE, dtype).train()
    bf16 = dtype == torch.bfloat16
    settings = {
        "train_micro_batch_size_per_gpu": MICRO,
        "gradient_accumulation_steps": ROWS // MICRO,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": 1 if bf16 else 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    } | ({"data_types": {"grad_accum_dtype": "fp32"}} if bf16 else {})
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True), config=settings)

    def step(ids: list[np.ndarray]) -> None:
        for i in range(0, ROWS, MICRO):
            engine.backward(loss_of(engine, ids[i : i + MICRO], 1e-4))
            engine.step()

    return step


def learner(folder: Path, dtype: torch.dtype, *, packing: bool) -> Callable[[list[np.ndarray]], None]:
    config, store = Config(), DictStore()
    config.model.path, config.model.dtype = str(folder), str(dtype).removeprefix("torch.")
    config.model.max_length = PROMPT + LONGEST
    config.learner.token_budget = MICRO * (PROMPT + 64 * LONGER)
    config.learner.packing, config.learner.cpu_threads = packing, torch.get_num_threads()
    made = DeepSpeedLearner(config, store, rank=0, world_size=1, master_addr="127.0.0.1", master_port=free_port())
    rng, cache = np.random.default_rng(1), {}

    def step(ids: list[np.ndarray]) -> None:
        if id(ids) not in cache:
            cache[id(ids)] = learn_batch(store, ids, rng)
        made.step(cache[id(ids)], None)

    return step


def now() -> float:
    if not GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def medians(sides: dict[str, Callable], ids: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Tokens per second of each side, see above; sides take turns, so that a busy machine slows all of them."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, step in sides.items():
            begin = now()
            step(ids)
            if i:  # the first round warms up
                seen[name].append(sum(map(len, ids)) / (now() - begin))
    return {name: round(statistics.median(values), 1) for name, values in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype, rng = getattr(torch, args.dtype), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny.save(scratch, SHAPE)
        sides = {
            "learner": learner(folder, dtype, packing=False),
            "learner_packed": learner(folder, dtype, packing=True),
            "bare_torch": bare_torch(folder, dtype),
            "bare_deepspeed": bare_deepspeed(folder, dtype),
        }
        torch.set_num_threads(args.threads)
        equal = medians(sides, sequences(equal_lengths(rng), rng), args.rounds)
        tailed = medians(sides, sequences(long_tailed(rng), rng), args.rounds)
    emit(
        "learner",
        {
            "equal_vs_bare_torch": equal["learner"] / equal["bare_torch"],
            "equal_vs_bare_deepspeed": equal["learner"] / equal["bare_deepspeed"],
            "equal_packed_vs_bare_torch": equal["learner_packed"] / equal["bare_torch"],
            "tailed_vs_padded_torch": tailed["learner"] / tailed["bare_torch"],
            "tailed_vs_padded_deepspeed": tailed["learner"] / tailed["bare_deepspeed"],
            "tailed_packed_vs_padded_torch": tailed["learner_packed"] / tailed["bare_torch"],
        },
        {f"equal_vs_bare_{name}": (">=", 0.95) for name in BARE} | {f"tailed_vs_padded_{name}": (">=", 1.5) for name in BARE},
        tokens_per_s_equal=equal,
        tokens_per_s_tailed=tailed,
        dtype=args.dtype,
        device=torch.cuda.get_device_name() if GPU else "cpu",
        threads=args.threads,
    )


if __name__ == "__main__":
    main()
