"""One learner step of an environment agent: from a batch of fragments to an updated network.

Rewards are put together when the batch arrives (extrinsic, and intrinsic against the newest labels), then each minibatch of whole
fragments is one optimiser update: value targets and advantages by V-trace or GAE, the clipped surrogate, a value loss per head and
an entropy bonus. Denominators are the frames of the minibatch, known before any forward pass. Every rank knows all rewards and trains
on its share of the fragments of each minibatch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrl.agent_types import EpisodeRecord, Fragment
from rayrl.algorithms import fragment_credit, values
from rayrl.algorithms.agent_losses import clipped_surrogate
from rayrl.algorithms.fragment_credit import Steps
from rayrl.algorithms.running_stats import RunningStats
from rayrl.config.schema import Config
from rayrl.data import fragment_arrow
from rayrl.errors import Diverged
from rayrl.learner import token_records
from rayrl.learner.fragments import Rewards, Stack, assign_rewards, stack
from rayrl.learner.group import Group
from rayrl.learner.intrinsic import FromFirst, Intrinsic
from rayrl.learner.schedule import learning_rate
from rayrl.learner.tally import Tally
from rayrl.learner.trainable import Trainable
from rayrl.protocols import Store
from rayrl.types import FloatArray, LearnBatch

RECENT_EPISODES = 100
"""Over how many finished episodes returns and lengths are averaged."""


class Before(NamedTuple):
    """What the weights before the step said."""

    values: Tensor
    """float32[T, B, V]: value updates are clipped around them."""
    logprobs: Tensor
    """float32[T, B], of the actions: the proximal policy."""


class AgentTrainer:
    """Fulfils `networks.Stepper`."""

    unit = "frames"

    def __init__(
        self,
        config: Config,
        store: Store,
        policy: Trainable,
        critic: Trainable | None,
        ema: Any,
        group: Group,
        device: torch.device,
        intrinsic: Intrinsic,
    ) -> None:
        self._config, self._agent, self._store, self._group, self._device = config, config.agent, store, group, device
        self._intrinsic = intrinsic if group.size == 1 else FromFirst(intrinsic, group)
        self._total_updates = config.run.steps * config.learner.epochs * config.learner.minibatches
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_EPISODES)
        self._frames = 0
        self.policy = policy
        self.updates = 0
        self.token_records: pa.RecordBatch | None = None
        """Of the fragment that the archive may keep: the first of the batch."""

    @property
    def state(self) -> dict[str, Any]:
        return {"recent": list(self._recent), "frames": self._frames, "intrinsic": self._intrinsic.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._recent = deque(state.get("recent", ()), maxlen=RECENT_EPISODES)
        self._frames = state.get("frames", 0)
        self._intrinsic.state = state.get("intrinsic", {})

    def step(self, batch: LearnBatch, reference: Sequence[Any] | None) -> dict[str, float]:
        """Trains on ``batch`` and returns metrics."""
        fragments = [self._fetch(group.info.payload) for group in batch.groups]
        self._intrinsic.refresh({key: text for f in fragments for key, text in f.texts.items()})
        rewards = assign_rewards(fragments, self._agent, self._intrinsic)
        learner, tally = self._config.learner, Tally()
        minibatches = self._stacks(fragments, rewards, batch.step)
        several = len(minibatches) * learner.epochs > 1
        asked_for = self._agent.value_clip > 0 or self._agent.clip_around == "proximal"
        before = [self._before(part) if several and asked_for else None for part in minibatches]
        for epoch in range(learner.epochs):
            if epoch and self._agent.intrinsic.relabel:
                self._intrinsic.refresh({})
                rewards = assign_rewards(fragments, self._agent, self._intrinsic)
                minibatches = self._stacks(fragments, rewards, batch.step)  # the same parts, rewarded anew
            order = np.random.default_rng([self._config.run.seed, batch.step, epoch]).permutation(len(minibatches))
            for k in order.tolist():
                self._update(minibatches[k], before[k], tally)
        if self._config.telemetry.rollouts and fragments and self._group.rank == 0:
            self.token_records = token_records.of_fragment(fragments[0].ordinal, {"intrinsic": rewards[0].intrinsic})
        return self._report(fragments, rewards, tally)

    def rate(self, fragment: pa.RecordBatch) -> FloatArray:
        """See `LearnerBase.rate`: asks a copy, so that neither counters nor running statistics move."""
        aside = copy(self._intrinsic)
        for name, value in vars(aside).items():
            if isinstance(value, RunningStats):
                setattr(aside, name, copy(value))
        return assign_rewards([fragment_arrow.decode(fragment)], self._agent, aside)[0].intrinsic

    def _fetch(self, payload: Any) -> Fragment:
        return fragment_arrow.decode(self._store.get(payload, timeout_s=self._config.deadlines.call_s))

    def _stacks(self, fragments: Sequence[Fragment], rewards: Sequence[Rewards], step: int) -> list[Stack]:
        order = np.arange(len(fragments))
        if self._config.learner.minibatches > 1:
            order = np.random.default_rng([self._config.run.seed, step]).permutation(len(fragments))
        parts = [sorted(part.tolist()) for part in np.array_split(order, min(self._config.learner.minibatches, len(fragments)))]
        pick = lambda items, part: [items[i] for i in part[self._group.rank :: self._group.size]]
        layout: Any = {"config": self._agent, "device": self._device}
        return [stack(pick(fragments, part), pick(rewards, part), sum(fragments[i].frames for i in part), **layout) for part in parts]

    @torch.no_grad()
    def _before(self, part: Stack) -> Before:
        logprobs, predicted, _ = self.policy(part.observations, part.state, part.starts)
        return Before(predicted[:-1], _of_actions(logprobs, part))

    def _update(self, part: Stack, before: Before | None, tally: Tally) -> None:
        """One optimiser update."""
        agent = self._agent
        logprobs, predicted, states = self.policy(part.observations, part.state, part.starts)
        chosen = _of_actions(logprobs, part)
        before = before or Before(predicted[:-1].detach(), chosen.detach())
        ratios = (chosen - part.behavior).exp()
        advantages, targets = self._credit(part, predicted.detach(), ratios.detach(), states.detach())
        if agent.normalize_advantages:
            mean, std = self._moments(advantages, part.total)
            advantages = (advantages - mean) / (std + 1e-8)
        if agent.clip_around == "proximal":
            weights = (before.logprobs - part.behavior).exp().clamp(max=agent.rho_clip)
            policy_loss, found = clipped_surrogate((chosen - before.logprobs).exp(), advantages, agent.clip, weights)
        else:
            policy_loss, found = clipped_surrogate(ratios, advantages, agent.clip)
        entropy = -(logprobs[:-1].exp() * logprobs[:-1]).sum(-1)
        critic = values.value_loss(predicted[:-1], before.values, targets, torch.ones_like(targets, dtype=torch.bool), agent.value_clip)
        loss = (policy_loss - agent.entropy_coef * entropy).sum() + agent.value_coef * critic.token_loss.sum()
        loss = loss / part.total
        self.policy.backward(loss)
        optim = self._config.learner.optim
        norm = self.policy.update(learning_rate(optim, optim.lr, self.updates, self._total_updates))
        if not math.isfinite(norm):
            raise Diverged(
                f"learner/grad_norm is {norm} in optimiser update {self.updates}",
                "resume from the last commit with a smaller learner.optim.lr; look at policy/ratio_max before it",
            )
        gap = (chosen - part.behavior).detach().abs()
        if tally.counts["update"] == 0:
            tally.add("first", {"mismatch/abs": gap.sum(dtype=torch.float64), "mismatch/abs_max": gap.max()})
            tally.counts["first"] = part.total
        heads = predicted.shape[-1]
        tally.add("token", found | {"policy/entropy": entropy.sum(dtype=torch.float64)} | {k: v / heads for k, v in critic.metrics.items()})
        # Every rank knows the same norm, so its part of the sum is one rank's share.
        tally.add("update", {"learner/loss": loss, "learner/grad_norm": torch.tensor(norm / self._group.size)})
        tally.counts["update"] += 1
        tally.counts["token"] += part.total
        self.updates += 1

    def _moments(self, advantages: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the minibatch of all ranks."""
        if self._group.size == 1:
            return advantages.mean(), advantages.std()
        mean = self._group.sum(advantages.sum(dtype=torch.float64)) / total
        squares = self._group.sum((advantages - mean.to(advantages.device)).square().sum(dtype=torch.float64))
        return tuple(x.to(advantages) for x in (mean, (squares / (total - 1)).sqrt()))

    def _credit(self, part: Stack, predicted: Tensor, ratios: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages float32[T, B], summed over heads, and value targets float32[T, B, V]."""
        agent, final = self._agent, torch.zeros_like(predicted[:-1])
        if len(part.final[0]):
            with torch.no_grad():
                final[part.final] = self.policy.net.model.step(part.final_observations, states[part.final].float())[1]
        advantages, targets = [], []
        for v, rewards in enumerate(part.rewards):
            steps = Steps(rewards, predicted[..., v], part.terminated, part.truncated, final[..., v])
            if agent.credit == "vtrace":
                advantage, target = fragment_credit.vtrace(steps, ratios, agent.gamma, agent.rho_clip, agent.c_clip)
            else:
                advantage, target = fragment_credit.gae(steps, agent.gamma, agent.lam)
            advantages.append(advantage)
            targets.append(target)
        return torch.stack(advantages).sum(0), torch.stack(targets, -1)

    def _report(self, fragments: Sequence[Fragment], rewards: Sequence[Rewards], tally: Tally) -> dict[str, float]:
        report, optim = tally.means(self._group), self._config.learner.optim
        frames = sum(f.frames for f in fragments)
        self._frames += frames
        ended = [episode for f in fragments for episode in f.episodes]
        self._recent.extend(_row(episode) for episode in ended)
        outer, inner = (np.concatenate([r[i].ravel() for r in rewards]) for i in (0, 1))
        return (
            report
            | episode_means(self._recent)
            | self._intrinsic.metrics()
            | {
                "value/explained_variance": values.explained_variance(report),
                "learner/lr": learning_rate(optim, optim.lr, max(self.updates - 1, 0), self._total_updates),
                "learner/updates": tally.counts["update"],
                "learner/frames": float(frames * self._config.learner.epochs),
                "agent/frames": float(self._frames),
                "agent/episodes_count": float(len(ended)),
                "reward/extrinsic_part": float(outer.mean()),
                "reward/intrinsic_part": float(inner.mean()),
                "reward/mean": float((outer + inner).mean()),
                "reward/std": float((outer + inner).std()),
            }
        )


def _of_actions(logprobs: Tensor, part: Stack) -> Tensor:
    """float32[T, B]: log-probs of the actions taken, from those of all actions, [T+1, B, A]."""
    return logprobs[:-1].gather(-1, part.actions.unsqueeze(-1)).squeeze(-1)


def episode_means(rows: Sequence[dict[str, Any]] | deque[dict[str, Any]]) -> dict[str, float]:
    """Mean return, length and environment counts of finished episodes; nothing where there are none."""
    if not rows:
        return {}
    keys = sorted({key for row in rows for key in row})
    return {f"episode/{key}": float(np.mean([row[key] for row in rows if key in row])) for key in keys}


def _row(episode: EpisodeRecord) -> dict[str, Any]:
    return {"return": episode.total_reward, "length": float(episode.length)} | dict(episode.sums)
