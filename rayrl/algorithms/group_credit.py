"""Published outcome estimators beside the classical ones of credit.py: ``f(OutcomeInputs, **knobs) -> float32[N]``.

Legend of shapes: ``N`` trajectories of the batch, ``C`` reward components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayrl.algorithms.credit import OutcomeInputs, _group_statistics, _group_sum

EPS = 1e-6


def nsr(inputs: OutcomeInputs) -> Tensor:
    """Negative-sample reinforcement: `normalised` advantages where the reward is below 1, else 0.

    Zhu et al. 2025 (arXiv 2506.01347), as Mirage-or-Method's kit (arXiv 2508.21188) computes it: ``nsr + psr`` is GRPO for rewards
    of 0 and 1. A group of one sample has its reward for an advantage, so that a lone wrong sample teaches nothing.
    """
    return torch.where(inputs.kept & (inputs.rewards < 1), _or_alone(inputs), 0).float()


def psr(inputs: OutcomeInputs) -> Tensor:
    """Positive-sample reinforcement: `normalised` advantages where the reward is above 0, else 0 (see `nsr`)."""
    return torch.where(inputs.kept & (inputs.rewards > 0), _or_alone(inputs), 0).float()


def right_only(inputs: OutcomeInputs, *, threshold: float = 0.5) -> Tensor:
    """1 where the reward reaches ``threshold``, else 0: with loss reinforce, fine-tuning on the answers that were right.

    The verifier-free arm of a comparison under one budget (arXiv 2502.12118): wrong answers and labels teach nothing.
    """
    return (inputs.kept & (inputs.rewards >= threshold)).float()


def gdpo(inputs: OutcomeInputs, *, batch_norm: bool = True) -> Tensor:
    """``sum_c w_c (r_c - mean_c) / (std_c + eps)`` within the group, then whitened over the batch (GDPO, arXiv 2601.05242).

    Each component is normalised by itself before it is weighted, so that one with a large scale does not drown the others, and two
    samples whose sums happen to agree keep different advantages. A sample whose component failed takes no part in that component.
    """
    components, weights = _components(inputs)
    total = sum((w * normalised(inputs, c) for w, c in zip(weights, components, strict=True)), torch.zeros_like(inputs.rewards).double())
    if not batch_norm:
        return total.float()
    centred = torch.where(inputs.kept, total - _mean(total, inputs.kept), 0)
    return (centred / (_mean(centred.square(), inputs.kept).sqrt() + EPS)).float()


def pama(inputs: OutcomeInputs, *, mode: str = "weights", before_clip: bool = False, whiten: bool = True) -> Tensor:
    """Pareto multi-objective alignment (PAMA, arXiv 2508.07768): one advantage from several, with no gradient per objective.

    Every component gives group-relative advantages (``whiten``: divided by their standard deviation, else centred only) of which the
    negative part is dropped (Noon PPO). With ``a_c`` the mean of component c over the batch's kept samples, the convex combination
    of least norm is known in closed form (Theorem 1): see `pareto_weights`.

    ``mode`` weights: ``sum_c c_c A_c``, credit per trajectory kept. token: the projection of 0 on the span of the trajectory's own
    advantages, their least one here. scalar: the projection s* for every sample, as a third-party implementation has it: no credit
    assignment at all. ``before_clip``: take ``a_c`` before the negative part is dropped, where signs can differ.
    """
    components, _ = _components(inputs)
    raw = torch.stack([normalised(inputs, c) if whiten else _centred(inputs, c)[0] for c in components])
    noon = raw.clamp(min=0)
    objectives = torch.stack([_mean(a, inputs.kept) for a in (raw if before_clip else noon)])
    if mode == "weights":
        combined = (pareto_weights(objectives)[:, None] * noon).sum(0)
    elif mode == "token":
        combined = noon.amin(0)
    else:
        combined = torch.zeros_like(noon[0]) + _projection(objectives)
    return torch.where(inputs.kept, combined, 0).float()


def pareto_weights(objectives: Tensor) -> Tensor:
    """float64[C]: weights c >= 0 with sum 1 that minimise ``(sum_c c_c a_c)^2`` (PAMA, Theorem 1).

    All signs equal: everything on the objective of smallest ``|a|``, shared among ties. Mixed signs: the two extremes, so that the
    sum is 0. All 0: uniform.
    """
    low, high = objectives.min(), objectives.max()
    if low == high == 0:
        return torch.full_like(objectives, 1 / len(objectives))
    if low < 0 < high:
        at_low, at_high = ((objectives == edge).to(objectives.dtype) for edge in (low, high))
        return (at_low / at_low.sum()) * (high / (high - low)) + (at_high / at_high.sum()) * (-low / (high - low))
    least = (objectives.abs() == objectives.abs().min()).to(objectives.dtype)
    return least / least.sum()


def normalised(inputs: OutcomeInputs, values: Tensor) -> Tensor:
    """float64[N]: ``(v - mean) / (std + 1e-6)`` within the group, sample standard deviation; 0 for a sample without siblings."""
    centred, count = _centred(inputs, values)
    std = (_group_sum(centred.square(), inputs.group) / (count - 1).clamp(min=1)).sqrt()
    return centred / (std + EPS)


def _or_alone(inputs: OutcomeInputs) -> Tensor:
    """`normalised` rewards; a sample without siblings has its reward, as if the mean were 0 and the standard deviation 1."""
    _, count = _centred(inputs, inputs.rewards)
    return torch.where(count > 1, normalised(inputs, inputs.rewards), inputs.rewards)


def _centred(inputs: OutcomeInputs, values: Tensor) -> tuple[Tensor, Tensor]:
    """float64[N] each: values minus their group's mean, 0 where a sample is not kept or has no value; and how many have one."""
    there = inputs.kept & ~values.isnan()
    having = OutcomeInputs(values, inputs.group, inputs.lengths, there)
    clean, count, total = _group_statistics(having)
    return torch.where(there, clean - total / count, 0), count


def _components(inputs: OutcomeInputs) -> tuple[Tensor, Tensor]:
    if inputs.components is None or inputs.weights is None:
        raise ValueError("this estimator weighs reward components and the batch has none")
    return inputs.components, inputs.weights.double()


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    """Mean of ``values[N]`` over ``kept``; 0 where nothing is kept."""
    return torch.where(kept, values, 0).double().sum() / kept.sum().clamp(min=1)


def _projection(objectives: Tensor) -> Tensor:
    """The number of least magnitude between the smallest and the largest objective."""
    return torch.zeros_like(objectives[0]).clamp(min=objectives.min(), max=objectives.max())
