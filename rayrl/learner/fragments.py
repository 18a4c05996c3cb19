"""A batch of fragments as tensors for one learner step: environments of all fragments side by side.

Legend of shapes: ``T`` steps, ``B`` environments of all fragments, ``M`` truncated episodes, ``V`` value heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayrl.agent_types import Fragment
from rayrl.algorithms import intrinsic
from rayrl.config.schema import AgentConfig
from rayrl.learner.intrinsic import Intrinsic
from rayrl.types import FloatArray


class Rewards(NamedTuple):
    """Float32[T, K] each, of one fragment; already weighted by a and b."""

    extrinsic: FloatArray
    intrinsic: FloatArray


def assign_rewards(fragments: Sequence[Fragment], config: AgentConfig, source: Intrinsic) -> list[Rewards]:
    """``a·clip(s·r_ext, ±c)`` and ``b·r̂·N^-β`` of every frame; r̂ is rated once per distinct message of all fragments."""
    hashes = np.concatenate([f.message_hash.ravel() for f in fragments])
    ratings, found, start = intrinsic.per_message(hashes, source.rate), [], 0
    for f in fragments:
        rated = ratings[start : start + f.frames].reshape(f.message_hash.shape)
        start += f.frames
        novelty = intrinsic.novelty(f.message_count, config.intrinsic.count_exponent)
        outer = intrinsic.extrinsic(f.rewards, config.extrinsic_coef, config.reward_scale, config.reward_clip)
        found.append(Rewards(outer, (config.intrinsic.coef * rated * novelty).astype(np.float32)))
    return found


@dataclass(frozen=True, eq=False)
class Stack:
    """Fragments of equal length beside each other."""

    observations: dict[str, Tensor]
    """[T+1, B, ...] in the environment's dtypes."""
    state: Tensor
    """float32[B, H] before row 0."""
    starts: Tensor
    """bool[T+1, B]: an episode starts in this row (never in row 0, whose state says it already)."""
    actions: Tensor
    """int64[T, B]."""
    behavior: Tensor
    """float32[T, B]: log-probs of the actions under the policy that chose them."""
    rewards: Tensor
    """float32[V, T, B]."""
    terminated: Tensor
    truncated: Tensor
    """bool[T, B] each."""
    final: tuple[Tensor, Tensor]
    """int64[M] row and environment of each truncation."""
    final_observations: dict[str, Tensor]
    """[M, ...]: what truncated episodes really ended in."""

    total: int
    """Frames of the minibatch on all ranks: the denominator."""


def stack(fragments: Sequence[Fragment], rewards: Sequence[Rewards], total: int, *, separate: bool, device: torch.device) -> Stack:
    """``separate``: one reward for each value head, extrinsic first; else their sum. Raises `ValueError` for unequal lengths."""
    if len({f.steps for f in fragments}) != 1:
        raise ValueError(f"fragments of one batch have {sorted({f.steps for f in fragments})} steps; they must be equally long")
    beside = lambda arrays: _tensor(np.concatenate(list(arrays), axis=1), device)
    offsets = np.cumsum([0, *(f.envs for f in fragments)])
    terminated, truncated = (beside(getattr(f, name) for f in fragments) for name in ("terminated", "truncated"))
    starts = torch.cat([torch.zeros_like(terminated[:1]), terminated | truncated])
    parts = [[r.extrinsic, r.intrinsic] if separate else [r.extrinsic + r.intrinsic] for r in rewards]
    return Stack(
        observations={name: beside(f.observations[name] for f in fragments) for name in fragments[0].observations},
        state=_tensor(np.concatenate([f.state for f in fragments]), device),
        starts=starts,
        actions=beside(f.actions for f in fragments).long(),
        behavior=beside(f.logprobs for f in fragments),
        rewards=torch.stack([beside(part[v] for part in parts) for v in range(len(parts[0]))]),
        terminated=terminated,
        truncated=truncated,
        final=(
            _tensor(np.concatenate([f.final_steps for f in fragments]), device).long(),
            _tensor(np.concatenate([f.final_envs + start for f, start in zip(fragments, offsets, strict=False)]), device).long(),
        ),
        final_observations={
            name: _tensor(np.concatenate([f.final_observations[name] for f in fragments]), device) for name in fragments[0].observations
        },
        total=total,
    )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
