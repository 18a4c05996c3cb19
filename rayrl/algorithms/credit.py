"""Outcome credit: one advantage per trajectory, from the scalars of the whole batch.

An OUTCOME estimator is ``f(OutcomeInputs) -> float32[N]``. Its inputs are metadata that every rank holds in the same order, so
every rank computes the same advantages without a collective. Statistics run in float64 over the kept trajectories of a
group; a trajectory that is not kept has advantage 0 and enters no baseline.

Legend of shapes: ``N`` trajectories of the global batch, ``B`` trajectories at hand, ``T`` padded length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GRPO_EPS = 1e-4
"""Added to the standard deviation, as in TRL's GRPOTrainer."""


@dataclass(frozen=True, eq=False)
class OutcomeInputs:
    """The scalars of a batch. Raises `ValueError` where the shapes disagree."""

    rewards: Tensor
    """float32[N]: aggregated rewards; what stands where ``kept`` is False (NaN included) is never read."""
    group: Tensor
    """int64[N]: which prompt, 0 … G-1."""
    lengths: Tensor
    """int64[N]: action tokens of each trajectory."""
    kept: Tensor
    """bool[N]: False for trajectories that must not be trained on."""
    components: Tensor | None = None
    """float32[C, N]: weighted reward components, for estimators that weigh objectives; NaN where a score failed."""
    weights: Tensor | None = None
    """float32[C]."""
    rng: np.random.Generator | None = None
    """Equal on every rank, for estimators that draw."""

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in ("rewards", "group", "lengths", "kept")}
        if self.rewards.dim() != 1 or len(set(shapes.values())) != 1:
            raise ValueError(f"outcome inputs must be vectors of one length, got {shapes}")


def none(inputs: OutcomeInputs) -> Tensor:
    """0 everywhere: for losses that read rewards or pairs themselves."""
    return torch.zeros_like(inputs.rewards)


def grpo(inputs: OutcomeInputs) -> Tensor:
    """``(r - mean) / (std + 1e-4)`` within the group (GRPO, arXiv 2402.03300 section 4.1.2).

    The paper leaves the estimator of the standard deviation open; this is the sample one (Bessel), as in TRL and verl.
    A group whose kept rewards are all equal, or with one kept sample, has advantage exactly 0.
    """
    rewards, count, total = _group_statistics(inputs)
    centred = torch.where(inputs.kept, rewards - total / count, 0)
    squares = _group_sum(centred.square(), inputs.group)
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    return (centred / (std + GRPO_EPS)).float()


def dr_grpo(inputs: OutcomeInputs) -> Tensor:
    """``r - mean`` within the group: no division by the standard deviation (Dr. GRPO, arXiv 2503.20783 section 3.2)."""
    rewards, count, total = _group_statistics(inputs)
    return torch.where(inputs.kept, rewards - total / count, 0).float()


def rloo(inputs: OutcomeInputs) -> Tensor:
    """``r - mean of the other samples`` of the group (RLOO, arXiv 2402.14740; Kool et al. 2019).

    Equals ``dr_grpo * n / (n - 1)``. A sample without kept siblings has no baseline and advantage 0.
    """
    rewards, count, total = _group_statistics(inputs)
    others = (total - rewards) / (count - 1).clamp(min=1)
    return torch.where(inputs.kept & (count > 1), rewards - others, 0).float()


def group_mean(inputs: OutcomeInputs) -> Tensor:
    """float32[N]: mean kept reward of each trajectory's group, itself included; 0 in a group without a kept sample.

    The baseline of REINFORCE++-baseline, handed to the token estimator as `TokenInputs.baseline`.
    """
    _, count, total = _group_statistics(inputs)
    return (total / count).float()


def rewards_minus_kl(rewards: Tensor, kl_sums: Tensor, coef: float) -> Tensor:
    """``r_i - coef * KL_i``: a KL penalty in the reward of an outcome estimator (RLOO, arXiv 2402.14740).

    ``rewards`` float32[N]; ``kl_sums`` float32[N]: sum over action tokens of a per-token estimate (`kl.estimate`), for every
    trajectory of the batch on every rank.
    """
    return rewards - coef * kl_sums


def _group_statistics(inputs: OutcomeInputs) -> tuple[Tensor, Tensor, Tensor]:
    """float64[N] each: rewards, kept samples of the trajectory's group (at least 1), their reward sum.

    float64 sums of equal float32 numbers are exact, so that equal rewards give advantages of exactly 0 and leave no rounding
    noise for a standard deviation to blow up.
    """
    rewards = torch.where(inputs.kept, inputs.rewards, 0).double()
    count = _group_sum(inputs.kept.double(), inputs.group).clamp(min=1)
    return rewards, count, _group_sum(rewards, inputs.group)


def _group_sum(values: Tensor, group: Tensor) -> Tensor:
    """Sum of ``values[N]`` over each trajectory's group, back at every trajectory."""
    groups = int(group.max()) + 1 if group.numel() else 0
    return values.new_zeros(groups).index_add_(0, group, values)[group]
