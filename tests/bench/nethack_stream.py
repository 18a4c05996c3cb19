"""A recorded stream of NetHack messages under random play: what an annotator gets to see, fragment by fragment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler

STEPS = 32
"""Of a fragment, per environment."""


@dataclass(frozen=True)
class Stream:
    hashes: NDArray[np.uint64]
    """uint64[F, S]: message of each frame; 0 is none. F fragments of S = STEPS x environments frames, in the order of time."""
    counts: NDArray[np.int32]
    """int32[F, S]: sightings of it in its episode, this one included."""
    texts: list[dict[int, bytes]]
    """New texts of each fragment."""

    @property
    def frames(self) -> int:
        return self.hashes.size

    @property
    def distinct(self) -> int:
        return int(np.count_nonzero(np.unique(self.hashes)))

    def sightings(self, fragment: int) -> tuple[dict[int, int], dict[int, int]]:
        """By hash: how often it was shown, and in how many episodes for the first time."""
        shown, counts = self.hashes[fragment], self.counts[fragment]
        keys, times = np.unique(shown[shown != 0], return_counts=True)
        firsts, first_times = np.unique(shown[(shown != 0) & (counts == 1)], return_counts=True)
        return dict(zip(keys.tolist(), times.tolist(), strict=True)), dict(zip(firsts.tolist(), first_times.tolist(), strict=True))


def record(frames: int, envs: int = 8, seed: int = 0, env: str = "nethack_score") -> Stream:
    """At least ``frames`` frames of random play in ``envs`` games."""
    sampler, rng = VectorSampler(agent_env_factory(env), envs, seed=seed), np.random.default_rng(seed)
    sampler.reset()
    hashes, counts, texts = [], [], []
    while len(hashes) * STEPS * envs < frames:
        fragment = np.zeros((STEPS, envs), np.uint64), np.zeros((STEPS, envs), np.int32)
        actions = rng.integers(sampler.spec.num_actions, size=(STEPS, envs))
        for t in range(STEPS):
            fragment[0][t], fragment[1][t] = sampler.message_hash, sampler.message_count
            sampler.step(actions[t].astype(np.int16))
        hashes.append(fragment[0].ravel())
        counts.append(fragment[1].ravel())
        texts.append(sampler.take_texts())
    sampler.close()
    return Stream(np.stack(hashes), np.stack(counts), texts)
