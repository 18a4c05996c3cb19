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
    following: FloatArray
    """float32[1, K]: what the message pays that the last step led to; [0, K] where nobody asks (``agent.intrinsic.pays``)."""


def assign_rewards(fragments: Sequence[Fragment], config: AgentConfig, source: Intrinsic) -> list[Rewards]:
    """``a·clip(s·r_ext, ±c)`` and ``b·r̂·N^-β`` of every frame; r̂ is rated once per distinct message of all fragments."""
    shown = [(f.message_hash, f.message_count) for f in fragments]
    if config.intrinsic.pays == "last_action":
        shown = [(np.vstack([f.message_hash, f.next_hash]), np.vstack([f.message_count, f.next_count])) for f in fragments]
    ratings, found, start = intrinsic.per_message(np.concatenate([hashes.ravel() for hashes, _ in shown]), source.rate), [], 0
    for f, (hashes, counts) in zip(fragments, shown, strict=True):
        rated = ratings[start : start + hashes.size].reshape(hashes.shape)
        start += hashes.size
        inner = (config.intrinsic.coef * rated * intrinsic.novelty(counts, config.intrinsic.count_exponent)).astype(np.float32)
        outer = intrinsic.extrinsic(f.rewards, config.extrinsic_coef, config.reward_scale, config.reward_clip)
        found.append(Rewards(outer, inner[: f.steps], inner[f.steps :]))
    return found


def credited(reward: Rewards, fragment: Fragment, config: AgentConfig) -> FloatArray:
    """float32[T, K]: the intrinsic reward of each action (``agent.intrinsic.pays``)."""
    if config.intrinsic.pays == "next_action":
        return reward.intrinsic
    # What an episode ended in is never rewarded, and what the next one begins with is nobody's doing.
    goes_on = ~(fragment.terminated | fragment.truncated)
    return np.float32(config.gamma) * np.vstack([reward.intrinsic[1:], reward.following]) * goes_on


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


def stack(fragments: Sequence[Fragment], rewards: Sequence[Rewards], total: int, *, config: AgentConfig, device: torch.device) -> Stack:
    """With separate value heads one reward for each, extrinsic first; else their sum. Raises `ValueError` for unequal lengths."""
    if len({f.steps for f in fragments}) != 1:
        raise ValueError(f"fragments of one batch have {sorted({f.steps for f in fragments})} steps; they must be equally long")
    beside = lambda arrays: _tensor(np.concatenate(list(arrays), axis=1), device)
    offsets = np.cumsum([0, *(f.envs for f in fragments)])
    terminated, truncated = (beside(getattr(f, name) for f in fragments) for name in ("terminated", "truncated"))
    starts = torch.cat([torch.zeros_like(terminated[:1]), terminated | truncated])
    both = [(r.extrinsic, credited(r, f, config)) for f, r in zip(fragments, rewards, strict=True)]
    parts = [pair if config.separate_values else (sum(pair),) for pair in both]
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
