"""NetHack without learning: how much of two bare `nle` loops' speed is left when the sampler drives the games and ships what it saw.

    python tests/bench/bench_sampler.py [--envs 16] [--frames 32000] [--rounds 5]

Both sides are two processes of ``--envs`` games each, with random actions from the same 28 keys. The bare side is stock `nle` with the
same observation keys (characters, colours, status line, message): step, and reset when the game is over. The sampler crops, hashes and
counts messages, keeps episode records, and delivers Arrow fragments of 32 steps through the object store, two in flight per process.
The sides take turns in alternating order; the ratio is the median over neighbouring turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import ray
from report import emit

from rayrl.agent_types import Fragment
from rayrl.data.fragment_arrow import encode
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler
from rayrl.types import VersionSpan

WORKERS, STEPS, AHEAD = 2, 32, 2
KEYS = ("chars", "colors", "blstats", "message")
LIMIT_S = 300


@ray.remote(num_cpus=1)
class Bare:
    def __init__(self, envs: int, index: int) -> None:
        from nle.env.tasks import NetHackScore

        from rayrl.envs.nethack.tasks import ACTIONS

        self._envs = [NetHackScore(observation_keys=KEYS, actions=ACTIONS) for _ in range(envs)]
        for k, env in enumerate(self._envs):
            env.seed(index, k, False)
            env.reset()
        self._rng = np.random.default_rng(index)

    def play(self, steps: int) -> int:
        actions = self._rng.integers(28, size=(steps, len(self._envs))).tolist()
        for row in actions:
            for env, action in zip(self._envs, row, strict=True):
                if env.step(action)[2]:
                    env.reset()
        return steps * len(self._envs)


@ray.remote(num_cpus=1)
class Sampling:
    def __init__(self, envs: int, index: int) -> None:
        self._sampler = VectorSampler(agent_env_factory("nethack_score"), envs, seed=index)
        self._sampler.reset()
        self._rng = np.random.default_rng(index)

    def fragment(self, ordinal: int):
        sampler, shape = self._sampler, (STEPS, self._sampler.num_envs)
        observations = sampler.spec.zeros(STEPS + 1, sampler.num_envs)
        hashes, counts = np.zeros(shape, np.uint64), np.zeros(shape, np.int32)
        actions = self._rng.integers(28, size=shape).astype(np.int16)
        results = []
        for t in range(STEPS):
            for name, array in sampler.observations().items():
                observations[name][t] = array
            hashes[t], counts[t] = sampler.message_hash, sampler.message_count
            results.append(sampler.step(actions[t]))
        for name, array in sampler.observations().items():
            observations[name][STEPS] = array
        cut = [(t, k, last) for t, r in enumerate(results) for k, last in r.last_observations.items()]
        return encode(
            Fragment(
                ordinal=ordinal,
                observations=observations,
                state=np.zeros((sampler.num_envs, 1), np.float32),
                actions=actions,
                logprobs=np.full(shape, -np.log(28), np.float32),
                rewards=np.stack([r.rewards for r in results]),
                terminated=np.stack([r.terminated for r in results]),
                truncated=np.stack([r.truncated for r in results]),
                final_steps=np.array([t for t, *_ in cut], np.int32),
                final_envs=np.array([k for _, k, _ in cut], np.int32),
                final_observations={
                    name: np.array([last[name] for *_, last in cut], spec.dtype).reshape(-1, *spec.shape)
                    for name, spec in sampler.spec.observations.items()
                },
                message_hash=hashes,
                message_count=counts,
                next_hash=sampler.message_hash.copy(),
                next_count=sampler.message_count.copy(),
                version_spans=(VersionSpan(0, 0, STEPS),),
                texts=sampler.take_texts(),
                episodes=tuple(e for r in results for e in r.episodes),
            )
        )


def bare(actors: list, frames: int, envs: int) -> float:
    """Frames per second of all processes together."""
    started = time.perf_counter()
    played = sum(ray.get([a.play.remote(frames // envs) for a in actors], timeout=LIMIT_S))
    return played / (time.perf_counter() - started)


def sampled(actors: list, frames: int, envs: int) -> tuple[float, float]:
    """Frames per second, and bytes per frame as they travel."""
    each = frames // (envs * STEPS)
    started, nbytes, owner = time.perf_counter(), 0, {}
    left = dict.fromkeys(actors, each)

    def ask(actor) -> None:
        if left[actor]:
            left[actor] -= 1
            owner[actor.fragment.remote(left[actor])] = actor

    for actor in actors:
        for _ in range(AHEAD):
            ask(actor)
    while owner:
        [ref], _ = ray.wait(list(owner), timeout=LIMIT_S)
        ask(owner.pop(ref))
        nbytes += ray.get(ref, timeout=LIMIT_S).nbytes
    total = len(actors) * each * envs * STEPS
    return total / (time.perf_counter() - started), nbytes / total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=16, help="games per process")
    parser.add_argument("--frames", type=int, default=32_000, help="frames per process and turn")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    ray.init(address="local", num_cpus=2 * WORKERS, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        loops, samplers = ([side.remote(args.envs, i) for i in range(WORKERS)] for side in (Bare, Sampling))
        rates: list[tuple[float, float]] = []
        bytes_per_step = 0.0
        for round_ in range(args.rounds + 1):  # the first warms up
            measured = {}
            for side in ("bare", "sampler") if round_ % 2 else ("sampler", "bare"):
                if side == "bare":
                    measured[side] = bare(loops, args.frames, args.envs)
                else:
                    measured[side], bytes_per_step = sampled(samplers, args.frames, args.envs)
            rates.append((measured["sampler"], measured["bare"]))
    finally:
        ray.shutdown()
    ratio = statistics.median(ours / theirs for ours, theirs in rates[1:])
    frames_per_s = {side: round(statistics.median(r[i] for r in rates[1:])) for i, side in enumerate(("sampler", "bare"))}
    ok = emit(
        "sampler",
        {"speed": ratio, "bytes_per_step": bytes_per_step},
        {"speed": (">=", 0.5), "bytes_per_step": ("<=", 1500)},
        frames_per_s=frames_per_s,
        **vars(args),
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
