"""Credit on fragments of environment steps: V-trace and GAE, with the last reward of every fragment taught.

What a step leads to has one value, whatever the border: the next row's value; at the last row that of the bootstrap row; after a
truncation that of the real last observation; after a termination nothing. So a fragment's targets are those of the whole episode,
cut at the border and completed by the value function there.

Legend of shapes: ``T`` steps, ``B`` environments side by side. Times run along the first axis. Several value heads are several calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Steps:
    """T steps of B environments and the values of what they saw and led to. Raises `ValueError` where shapes disagree."""

    rewards: Tensor
    """float32[T, B]."""
    values: Tensor
    """float32[T+1, B]: of each observation acted in; row T is the bootstrap row."""
    terminated: Tensor
    """bool[T, B]."""
    truncated: Tensor
    """bool[T, B]."""
    final_values: Tensor
    """float32[T, B]: value of the real last observation where ``truncated``; not read elsewhere."""

    def __post_init__(self) -> None:
        steps, envs = self.rewards.shape
        if self.values.shape != (steps + 1, envs):
            raise ValueError(f"values have shape {tuple(self.values.shape)}, {steps} steps of {envs} environments need one row more")
        for name in ("terminated", "truncated", "final_values"):
            if getattr(self, name).shape != self.rewards.shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, rewards have {tuple(self.rewards.shape)}")

    @property
    def goes_on(self) -> Tensor:
        """float[T, B]: 1 where the episode went on; over any other step no credit flows back."""
        return (~(self.terminated | self.truncated)).to(self.rewards.dtype)

    def successors(self, following: Tensor) -> Tensor:
        """float32[T, B]: worth of what each step led to, ``following`` [T, B] where the episode went on."""
        return torch.where(self.terminated, 0.0, torch.where(self.truncated, self.final_values, following))


def gae(steps: Steps, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): advantages and value targets, float32[T, B] each."""
    deltas = steps.rewards + gamma * steps.successors(steps.values[1:]) - steps.values[:-1]
    advantages = _decayed_sums(deltas, gamma * lam * steps.goes_on)
    return advantages, advantages + steps.values[:-1]


def vtrace(steps: Steps, ratios: Tensor, gamma: float, rho_clip: float, c_clip: float) -> tuple[Tensor, Tensor]:
    """V-trace (Espeholt et al. 2018, eq. 1): advantages and value targets ``v_s``, float32[T, B] each.

    ``ratios`` float32[T, B]: π(a|x) / μ(a|x) of the trained to the sampling policy. The advantage ``r + γ v_{s+1} - V(x_s)`` carries
    no ratio of its own: the clipped surrogate that it is used in has one.
    """
    rho, c = ratios.clamp(max=rho_clip), ratios.clamp(max=c_clip)
    deltas = rho * (steps.rewards + gamma * steps.successors(steps.values[1:]) - steps.values[:-1])
    targets = steps.values[:-1] + _decayed_sums(deltas, gamma * c * steps.goes_on)
    following = steps.successors(torch.cat([targets[1:], steps.values[-1:]]))
    return steps.rewards + gamma * following - steps.values[:-1], targets


def _decayed_sums(terms: Tensor, decay: Tensor) -> Tensor:
    """``s[t] = terms[t] + decay[t] * s[t+1]``, float32[T, B]."""
    total, rows = torch.zeros_like(terms[0]), []
    for term, factor in zip(terms.flip(0).unbind(0), decay.flip(0).unbind(0), strict=True):
        total = term + factor * total
        rows.append(total)
    return torch.stack(rows).flip(0)
