"""What the learner's tests share: an in-process store and synthetic batches with known contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rayrl.config.schema import Config
from rayrl.data import arrow
from rayrl.types import FinishReason, GroupInfo, LearnBatch, ScoredGroup, Trajectory, VersionSpan


class DictStore:
    """An object store in a dict."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}

    def put(self, value: Any) -> int:
        self.values[len(self.values)] = value
        return len(self.values) - 1

    def get(self, ref: int, *, timeout_s: float) -> Any:
        return self.values[ref]


def config(model: Path, **learner: Any) -> Config:
    """A float32 run of 10 steps; keyword arguments set fields of ``learner``, with dots those of deeper sections."""
    c = Config()
    c.model.path, c.model.dtype, c.run.steps, c.run.deterministic = str(model), "float32", 10, True
    c.learner.optim.eps = 1e-4  # a tiny epsilon would blow rounding noise up to whole steps of the learning rate
    c.learner.optim.lr, c.learner.backend, c.learner.cpu_threads = 1e-2, "torch", 1
    for key, value in learner.items():
        section = c.learner
        *path, last = key.split("__")
        if path and path[0] in ("model", "algorithm", "run", "rollout", "buffer", "reference"):
            section = getattr(c, path.pop(0))
        for name in path:
            section = getattr(section, name)
        assert hasattr(section, last), key
        setattr(section, last, value)
    return c


def trajectory(rng: np.random.Generator, ordinal: int, sample: int, *, turns: int = 1, longest: int = 12) -> Trajectory:
    """A prompt, then ``turns`` policy turns with environment tokens between them; behaviour log-probs are made up."""
    parts: list[tuple[np.ndarray, bool]] = [(rng.integers(3, 99, rng.integers(1, 8)), False)]
    for turn in range(turns):
        if turn:
            parts.append((rng.integers(3, 99, rng.integers(1, 4)), False))
        parts.append((rng.integers(3, 99, rng.integers(1, longest)), True))
    ids = np.concatenate([p for p, _ in parts]).astype(np.int32)
    mask = np.concatenate([np.full(len(p), acts) for p, acts in parts])
    logprobs = np.where(mask, rng.normal(-4.8, 0.2, len(ids)), 0).astype(np.float32)
    return Trajectory(
        id=f"{ordinal}/{sample}",
        ordinal=ordinal,
        sample=sample,
        token_ids=ids,
        action_mask=mask,
        behavior_logprobs=logprobs,
        version_spans=(VersionSpan(0, 0, len(ids)),),
        turns=(),
        finish_reason=FinishReason.STOP,
    )


def batch_of(
    store: Any, groups: list[list[Trajectory]], *, rewards: np.ndarray | None = None, kept: np.ndarray | None = None, step: int = 0
) -> LearnBatch:
    """A learn batch; ``rewards`` and ``kept`` are [groups, samples]."""
    scored = []
    for g, samples in enumerate(groups):
        n = len(samples)
        info = GroupInfo(
            ordinal=samples[0].ordinal,
            payload=store.put(arrow.encode(samples)),
            nbytes=0,
            lengths=np.array([t.num_tokens for t in samples], np.int32),
            action_tokens=np.array([t.num_action_tokens for t in samples], np.int32),
            oldest_version=0,
            newest_version=0,
        )
        reward = np.zeros(n, np.float32) if rewards is None else rewards[g].astype(np.float32)
        scored.append(ScoredGroup(info, {"r": reward}, reward, np.ones(n, bool) if kept is None else kept[g]))
    return LearnBatch(step=step, version=0, groups=tuple(scored))


def random_batch(
    store: Any, *, seed: int = 0, groups: int = 4, samples: int = 4, turns: int = 1, step: int = 0, drop: float = 0.0
) -> LearnBatch:
    """Random trajectories and rewards; a share ``drop`` of the samples is not kept."""
    rng = np.random.default_rng(seed)
    made = [[trajectory(rng, g, s, turns=turns) for s in range(samples)] for g in range(groups)]
    return batch_of(store, made, rewards=rng.normal(size=(groups, samples)), kept=rng.random((groups, samples)) >= drop, step=step)
