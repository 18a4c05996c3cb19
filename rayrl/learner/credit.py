"""Who deserves what: from the rewards of the whole batch to the advantages of one rank's rows, by the parts of the algorithm.

    shape (rewards of the batch) → pay (steps, KL) → estimate (advantages) → count (how often each trajectory trains)

Everything that looks at the batch looks at metadata that every rank holds, so every rank computes the same without a collective.
What a method remembers from step to step is `Assigner.state`: plain numbers, the same on every rank, part of every checkpoint.

Legend: ``N`` trajectories of the batch, ``R`` rows of this rank, ``W`` most action tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayrl.algorithms import credit, kl, registry, token_credit
from rayrl.algorithms.batch import BatchInputs, Shaped
from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.learner.group import Group
from rayrl.learner.rows import Rows, StepPlan
from rayrl.learner.steps import StepPay, pay_steps
from rayrl.types import LearnBatch


@dataclass(frozen=True)
class Credit:
    """float32[R, W] each, 0 outside the rows' mask."""

    advantages: Tensor
    returns: Tensor | None
    """Targets of the critic; None for estimators that have none."""


class Assigner:
    """The parts of one algorithm with their knobs and their memory."""

    def __init__(self, config: Config, algorithm: registry.Resolved, decode: Callable[[int], str] | None) -> None:
        """``decode``: the text of one token, for methods that pay steps."""
        self._kl, self._seed, self._decode = config.algorithm.kl, config.run.seed, decode
        self._weights = {name: c.weight for name, c in config.rewards.components.items() if c.weight != 0}
        self.algorithm = algorithm
        self._binary = [f"{part} {getattr(algorithm, part)}" for part, entry in algorithm.entries.items() if entry.binary]
        self.state: dict[str, Any] = {}
        """Part -> what it remembers; JSON-able."""

    def shape(self, plan: StepPlan, step: int) -> tuple[StepPlan, dict[str, float]]:
        """The plan with shaped rewards, and what the shaping shows of itself."""
        if self._binary and not np.isin(plan.rewards[plan.kept], (0, 1)).all():
            strange = plan.rewards[plan.kept][~np.isin(plan.rewards[plan.kept], (0, 1))][0]
            raise ConfigError(
                f"algorithm.{self._binary[0]} needs rewards of 0 or 1 and got {strange}",
                "weight one component that is 0 or 1 with 1, and all others with 0",
            )
        if self.algorithm.shaping == "none":
            return plan, {}
        shaped: Shaped = self._call("shaping", self._facts(plan, step))
        return replace(plan, rewards=shaped.rewards), {f"method/{name}": float(v) for name, v in shaped.metrics.items()}

    def assign(self, batch: LearnBatch, plan: StepPlan, rows: Rows, values: Tensor | None, group: Group) -> Credit:
        """Advantages by the estimator of the algorithm; ``values`` float32[R, W] are the critic's.

        A KL penalty in the reward is measured between the policy that sampled the tokens and the reference.
        """
        rewards, own = torch.from_numpy(plan.rewards), torch.from_numpy(rows.position)
        penalty = None
        if self._kl.coef > 0 and self._kl.place == "reward":
            penalty = kl.estimate(self._kl.estimator, rows.behavior, rows.reference, rows.mask)
        steps = self._steps(batch, plan, rows)

        if self.algorithm.is_outcome:
            if penalty is not None:
                sums = group.sum(torch.zeros(len(rewards)).index_add_(0, own, penalty.sum(-1)))
                rewards = credit.rewards_minus_kl(rewards, sums, self._kl.coef)
            if steps is not None:  # an outcome estimator compares the sum over steps, never steps with one another
                rewards = rewards + group.sum(torch.zeros(len(rewards)).index_add_(0, own, steps.rewards.sum(-1)))
            return Credit(self._call("advantage", self._scalars(plan, rewards, batch.step))[own, None] * rows.mask, None)

        token_rewards = token_credit.token_rewards(rewards[own], rows.mask, penalty, self._kl.coef)
        inputs = token_credit.TokenInputs(
            token_rewards=token_rewards if steps is None else token_rewards + steps.rewards,
            action_mask=rows.mask,
            values=values,
            baseline=credit.group_mean(self._scalars(plan, rewards, batch.step))[own] if self.algorithm.needs_baseline else None,
            gamma=self.algorithm.gamma,
            lam=self.algorithm.lam,
            group=torch.from_numpy(plan.group)[own],
            outcomes=rewards[own],
            kl=None if penalty is None else self._kl.coef * penalty,
            step_rewards=None if steps is None else steps.rewards,
            step_tokens=None if steps is None else steps.tokens,
        )
        result = self.algorithm.load("advantage")(inputs, group.sum, **self.algorithm.knobs["advantage"])
        return Credit(result.advantages, result.returns)

    def times(self, plan: StepPlan, step: int) -> np.ndarray | None:
        """int64[N]: how often each trajectory is trained on; None for once each."""
        return None if self.algorithm.resample == "none" else self._call("resample", self._facts(plan, step))

    def pairs(self, plan: StepPlan, step: int) -> Any:
        """`pairs.Pairs` of the batch; None for losses without pairs."""
        return None if self.algorithm.pairs is None else self._call("pairs", self._facts(plan, step))

    def remembered(self) -> dict[str, float]:
        """The plain numbers of `state`, as metrics."""
        items = ((part, k, v) for part, state in self.state.items() for k, v in state.items() if isinstance(v, int | float))
        return {f"method/{k}": float(v) for _, k, v in items}

    def _call(self, part: str, inputs: Any) -> Any:
        function, knobs = self.algorithm.load(part), self.algorithm.knobs[part]
        if not self.algorithm.entries[part].stateful:
            return function(inputs, **knobs)
        self.state[part], result = function(self.state.get(part), inputs, **knobs)
        return result

    def _steps(self, batch: LearnBatch, plan: StepPlan, rows: Rows) -> StepPay | None:
        if self.algorithm.steps == "none":
            return None
        knobs = dict(self.algorithm.knobs["steps"])
        component, separator, coef = str(knobs.pop("component")), str(knobs.pop("separator")), float(knobs.pop("coef"))
        transform = self.algorithm.load("steps")
        return pay_steps(batch, rows, component, separator, self._decode, lambda v, mask: coef * transform(v, mask, **knobs))

    def _facts(self, plan: StepPlan, step: int) -> BatchInputs:
        components = self._weighted(plan)
        return BatchInputs(plan.rewards, plan.group, plan.action_tokens, plan.kept, components, self._weights, self._rng(step))

    def _scalars(self, plan: StepPlan, rewards: Tensor, step: int) -> credit.OutcomeInputs:
        components, weights = self._weighted(plan), None
        if components:
            weights = torch.tensor([self._weights[name] for name in components])
        return credit.OutcomeInputs(
            rewards,
            torch.from_numpy(plan.group),
            torch.from_numpy(plan.action_tokens),
            torch.from_numpy(plan.kept),
            torch.from_numpy(np.stack(list(components.values()))) if components else None,
            weights,
            self._rng(step),
        )

    def _weighted(self, plan: StepPlan) -> Mapping[str, np.ndarray]:
        return {name: plan.components[name] for name in self._weights if name in plan.components}

    def _rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, step, 0x5EED])
