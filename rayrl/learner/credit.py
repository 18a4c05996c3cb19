"""Who deserves what: the advantages of one rank's rows, from the rewards of the whole batch.

Legend: ``N`` trajectories of the batch, ``R`` rows of this rank, ``W`` most action tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rayrl.algorithms import credit, kl, registry, token_credit
from rayrl.config.schema import KLConfig
from rayrl.learner.group import Group
from rayrl.learner.rows import Rows, StepPlan


@dataclass(frozen=True)
class Credit:
    """float32[R, W] each, 0 outside the rows' mask."""

    advantages: Tensor
    returns: Tensor | None
    """Targets of the critic; None for estimators that have none."""


def assign(algorithm: registry.Resolved, kl_config: KLConfig, plan: StepPlan, rows: Rows, values: Tensor | None, group: Group) -> Credit:
    """Advantages by the estimator of ``algorithm``; ``values`` float32[R, W] are the critic's.

    A KL penalty in the reward is measured between the policy that sampled the tokens and the reference.
    """
    estimator = registry.load(registry.ADVANTAGES, algorithm.advantage, "algorithm.advantage")
    rewards, own = torch.from_numpy(plan.rewards), torch.from_numpy(rows.position)
    penalty = None
    if kl_config.coef > 0 and kl_config.place == "reward":
        penalty = kl.estimate(kl_config.estimator, rows.behavior, rows.reference, rows.mask)

    if algorithm.is_outcome:
        if penalty is not None:
            sums = group.sum(torch.zeros(len(rewards)).index_add_(0, own, penalty.sum(-1)))
            rewards = credit.rewards_minus_kl(rewards, sums, kl_config.coef)
        return Credit(estimator(_scalars(plan, rewards))[own, None] * rows.mask, None)

    inputs = token_credit.TokenInputs(
        token_rewards=token_credit.token_rewards(rewards[own], rows.mask, penalty, kl_config.coef),
        action_mask=rows.mask,
        values=values,
        baseline=credit.group_mean(_scalars(plan, rewards))[own] if algorithm.needs_baseline else None,
        gamma=algorithm.gamma,
        lam=algorithm.lam,
    )
    result = estimator(inputs, group.sum)
    return Credit(result.advantages, result.returns)


def _scalars(plan: StepPlan, rewards: Tensor) -> credit.OutcomeInputs:
    return credit.OutcomeInputs(rewards, torch.from_numpy(plan.group), torch.from_numpy(plan.action_tokens), torch.from_numpy(plan.kept))
