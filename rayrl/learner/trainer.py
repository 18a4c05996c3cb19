"""One learner step: from a batch of scored groups to an updated policy. Backend-agnostic; every rank runs the same code.

Advantages come from the whole batch; denominators come from its metadata before any forward pass; micro-batches and ranks
only add sums. Hence no split of a batch changes the update.

The denominator of the policy ratio is the policy at the start of the step (*prox*). With one update per step that is the
training forward itself, detached; only several updates under an off-policy correction cost an extra forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrl.algorithms import correction, kl, losses, metrics, reductions, registry, values
from rayrl.config.schema import Config
from rayrl.errors import ConfigError, Diverged
from rayrl.learner import token_records
from rayrl.learner.comparisons import Comparisons
from rayrl.learner.credit import Assigner, Credit
from rayrl.learner.ema import Ema
from rayrl.learner.forward import launch_tokens
from rayrl.learner.group import Group
from rayrl.learner.rows import Minibatch, Rows, StepPlan, count_times, fetch_rows, plan_step
from rayrl.learner.schedule import learning_rate
from rayrl.learner.tally import Tally
from rayrl.learner.trainable import Trainable
from rayrl.protocols import Store
from rayrl.types import LearnBatch


def needs_critic(config: Config) -> bool:
    """Whether a value model is trained. Raises `ConfigError` where `learner.critic` contradicts the advantage estimator."""
    algorithm = registry.resolve(config.algorithm)
    if config.learner.critic not in (None, algorithm.needs_critic):
        raise ConfigError(
            f"learner.critic is {config.learner.critic}, but the advantage estimator {algorithm.advantage!r} "
            + ("needs a value model" if algorithm.needs_critic else "gives a value model nothing to learn from"),
            "leave learner.critic null, or choose another algorithm.advantage",
        )
    return algorithm.needs_critic


@dataclass(frozen=True)
class _Step:
    """What every update of one step shares."""

    rows: Rows
    prox: Tensor | None
    """float32[R, W]: log-probs under the policy at the start of the step; None where the training forward itself gives them."""
    old_values: Tensor | None
    assigned: Credit
    compared: Comparisons | None
    """The pairs of a loss over whole groups; None for losses per token."""
    tally: Tally
    first: token_records.FirstLogprobs


class Trainer:
    """The step logic of one rank. ``updates`` counts optimiser updates: the position in the learning-rate schedule."""

    unit = "tokens"

    def __init__(
        self,
        config: Config,
        store: Store,
        policy: Trainable,
        critic: Trainable | None,
        ema: Ema | None,
        group: Group,
        device: torch.device,
        decode: Callable[[int], str] | None = None,
    ) -> None:
        """``decode``: the text of one token, for methods that pay single steps."""
        self._config, self._store, self._group, self._device = config, store, group, device
        self._algorithm = registry.resolve(config.algorithm)
        grouped = self._algorithm.whole_groups
        # A loss over groups adds nothing per token; the ratios that are logged are those of plain REINFORCE with advantage 0.
        self._loss = losses.reinforce if grouped else self._algorithm.load("loss")
        self._mode = "none" if grouped else registry.correction_mode(config.algorithm.correction, config.buffer.max_staleness)
        self.assigner = Assigner(config, self._algorithm, decode)
        # The constant of the fixed_length reduction: the most action tokens that a trajectory can have.
        self._max_tokens = min(config.rollout.sampling.max_tokens * config.rollout.max_turns, config.model.max_length)
        self._total_updates = config.run.steps * config.learner.epochs * config.learner.minibatches
        self.policy, self.critic, self._ema = policy, critic, ema
        self.updates = 0
        self.token_records: pa.RecordBatch | None = None
        """Of the last step (`learner.token_records`); None where trajectories are not kept."""

    @property
    def state(self) -> dict[str, Any]:
        """What the method itself remembers between steps; JSON-able."""
        return self.assigner.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.assigner.state = state

    def step(self, batch: LearnBatch, reference: Sequence[Any] | None) -> dict[str, float]:
        """Trains on ``batch`` and returns global metrics; a batch in which nothing may be trained on changes nothing."""
        learner = self._config.learner
        plan = plan_step(
            batch,
            rank=self._group.rank,
            ranks=self._group.size,
            minibatches=learner.minibatches,
            token_budget=learner.token_budget,
            packed=learner.packing,
            seed=self._config.run.seed,
            whole_groups=self._algorithm.whole_groups,
            launch=launch_tokens(self.policy.net, self._device),
        )
        plan, shown = self.assigner.shape(plan, batch.step)
        rows = fetch_rows(batch, plan, reference, self._store, timeout_s=self._config.deadlines.call_s)
        several = len(plan.minibatches) * learner.epochs > 1
        prox = self._predict(self.policy, plan, rows, lambda out: out[0]) if several and self._mode != "none" else None
        old_values = self._predict(self.critic, plan, rows, lambda out: out) if self.critic else None
        assigned = self.assigner.assign(batch, plan, rows, old_values, self._group)
        tokens = sum(m.tokens for m in plan.minibatches)
        times = self.assigner.times(plan, batch.step)
        if times is not None:
            plan, rows = count_times(plan, rows, times), replace(rows, times=torch.from_numpy(times)[rows.position])
        compared = None
        if self._algorithm.whole_groups:
            compared = Comparisons(self._algorithm, plan, rows, self.assigner.pairs(plan, batch.step))
        on = _Step(rows, prox, old_values, assigned, compared, Tally(), token_records.FirstLogprobs())
        on.tally.counts["batch"] = tokens
        for epoch in range(learner.epochs):
            for k in self._order(len(plan.minibatches), batch.step, epoch):
                if plan.minibatches[k].tokens > 0:
                    self._update(plan.minibatches[k], on)
        if self._config.telemetry.rollouts:
            seen = on.first.table(rows.mask.shape) if prox is None else prox
            self.token_records = token_records.encode(batch, rows, assigned.advantages, seen)
        return self._report(batch, plan, on) | shown | self.assigner.remembered()

    def _order(self, minibatches: int, step: int, epoch: int) -> list[int]:
        """A new order of the minibatches in every epoch, the same on every rank and in every run of this seed."""
        return np.random.default_rng([self._config.run.seed, step, epoch]).permutation(minibatches).tolist()

    @torch.no_grad()
    def _predict(self, net: Trainable, plan: StepPlan, rows: Rows, select: Callable[[Any], Tensor]) -> Tensor:
        """float32[R, W]: ``select`` of the network's output for every action token, under the present weights."""
        result = torch.zeros(rows.mask.shape)
        for minibatch in plan.minibatches:
            for micro in minibatch.micro_batches:
                window = rows.window(micro)
                result[micro, : window.shape[1]] = _spread(select(net(self._inputs(rows, micro))).cpu(), window)
        return result

    def _inputs(self, rows: Rows, micro: list[int]) -> Any:
        return rows.inputs(micro, packed=self._config.learner.packing, device=self._device)

    def _update(self, minibatch: Minibatch, on: _Step) -> None:
        """One optimiser update of the policy, and of the critic where there is one."""
        tally, denominator = on.tally, reductions.denominator(self._algorithm.reduction, minibatch.action_tokens, self._max_tokens)
        for micro in minibatch.micro_batches:
            inputs = self._inputs(on.rows, micro)
            on.first.add(micro, self._policy_pass(minibatch, micro, inputs, denominator, on))
            if self.critic:
                self._critic_pass(micro, inputs, minibatch.loss_tokens, on)
            tally.add("one", {"learner/processed": torch.tensor(inputs.processed_tokens if micro else 0)})
        optim = self._config.learner.optim
        self._apply(self.policy, optim.lr, "learner/grad_norm", tally)
        if self._ema:
            self._ema.update()
        if self.critic:
            self._apply(self.critic, optim.critic_lr, "value/grad_norm", tally)
        self.updates += 1
        tally.counts["update"] += 1
        tally.counts["token"] += minibatch.tokens
        tally.counts["compared"] += on.compared.weight(minibatch) if on.compared else 0.0
        tally.counts["first"] = tally.counts["first"] or minibatch.tokens

    def _apply(self, net: Trainable, peak: float, metric: str, tally: Tally) -> None:
        norm = net.update(learning_rate(self._config.learner.optim, peak, self.updates, self._total_updates))
        if not math.isfinite(norm):
            raise Diverged(
                f"{metric} is {norm} in optimiser update {self.updates}",
                "resume from the last commit with a smaller learner.optim.lr; look at mismatch/* and policy/ratio_max before it",
            )
        # Every rank knows the same norm, so its part of the sum is one rank's share.
        tally.add("update", {metric: torch.tensor(norm / self._group.size)})

    def _policy_pass(self, minibatch: Minibatch, micro: list[int], inputs: Any, denominator: float, on: _Step) -> Tensor:
        """Adds to the gradient; returns the log-probs float32[len(micro), w] that it was computed from, detached."""
        settings, rows, tally = self._config.algorithm, on.rows, on.tally
        window = rows.window(micro).to(self._device)
        cut = lambda x: x[micro, : window.shape[1]].to(self._device)
        logprobs, entropies = (_spread(flat, window) for flat in self.policy(inputs))
        behavior = cut(rows.behavior)
        start = logprobs.detach() if on.prox is None else cut(on.prox)
        weights, corrected = correction.correction_weights(
            self._mode, start, behavior, window, settings.correction.cap, settings.correction.floor, settings.correction.level
        )
        old = correction.ratio_denominator(self._mode, start, behavior)
        surrogate = self._loss(
            losses.LossInputs(
                logprobs=logprobs,
                prox_logprobs=old,
                behavior_logprobs=behavior,
                advantages=cut(on.assigned.advantages),
                action_mask=window,
                weights=weights,
                clip_low=self._algorithm.clip_low,
                clip_high=self._algorithm.clip_high,
            ),
            **({} if on.compared else self._algorithm.knobs["loss"]),
        )
        token_loss = surrogate.token_loss - settings.entropy_coef * entropies
        tally.add("token", surrogate.metrics | corrected | {"policy/entropy": metrics.masked_sum(entropies, window)})
        if rows.reference is not None:
            penalty = kl.penalty(settings.kl.estimator, logprobs, cut(rows.reference), window)
            tally.add("token", {"kl/reference": metrics.masked_sum(penalty, window)})
            if settings.kl.place == "loss":
                token_loss = token_loss + settings.kl.coef * penalty
        if tally.counts["update"] == 0:  # only these micro-batches certainly see the weights that the batch was made for
            tally.add("first", correction.mismatch_metrics(logprobs, behavior, window))
        if rows.times is not None:
            token_loss = token_loss * rows.times[micro, None].to(self._device)
        term = None
        if on.compared is not None:
            frozen, others = (cut(x) if x is not None else None for x in (rows.reference, rows.opponents))
            term = on.compared.loss(minibatch, micro, logprobs, old, behavior, frozen, others, window)
            tally.add("compared", term.metrics)
            token_loss = token_loss if term.token_loss is None else token_loss + term.token_loss
        loss = reductions.reduce(self._algorithm.reduction, token_loss, window, self._max_tokens).sum / denominator
        if term is not None:
            loss = loss + term.sum / on.compared.weight(minibatch)
        tally.add("update", {"learner/loss": loss})
        self.policy.backward(loss)
        return logprobs.detach()

    def _critic_pass(self, micro: list[int], inputs: Any, tokens: int, on: _Step) -> None:
        rows, window = on.rows, on.rows.window(micro).to(self._device)
        cut = lambda x: x[micro, : window.shape[1]].to(self._device)
        predicted = _spread(self.critic(inputs), window)
        out = values.value_loss(predicted, cut(on.old_values), cut(on.assigned.returns), window, self._config.algorithm.value_clip)
        token_loss = out.token_loss if rows.times is None else out.token_loss * rows.times[micro, None].to(self._device)
        loss = self._config.algorithm.value_coef * token_loss.sum() / tokens
        on.tally.add("token", out.metrics)
        on.tally.add("update", {"value/loss": loss})
        self.critic.backward(loss)

    def _report(self, batch: LearnBatch, plan: StepPlan, on: _Step) -> dict[str, float]:
        optim, epochs, tally = self._config.learner.optim, self._config.learner.epochs, on.tally
        advantages = on.assigned.advantages.double()
        tally.add("batch", {"advantage/mean": advantages.sum(), "advantage/std": advantages.square().sum()})
        tally.add("one", {"advantage/abs_max": metrics.masked_max(advantages.abs(), on.rows.mask)})
        computed = sum(len(on.rows.token_ids[r]) for m in plan.minibatches for micro in m.micro_batches for r in micro)
        tally.add("one", {"learner/tokens": torch.tensor(epochs * computed)})
        report = tally.means(self._group)
        report["advantage/std"] = max(report["advantage/std"] - report["advantage/mean"] ** 2, 0.0) ** 0.5
        processed = report.pop("learner/processed", 0.0)
        if self.critic and tally.counts["update"]:
            report["value/explained_variance"] = values.explained_variance(report)
        rewards = np.concatenate([g.rewards[g.kept] for g in batch.groups] or [np.zeros(0)])
        return report | {
            "learner/lr": learning_rate(optim, optim.lr, max(self.updates - 1, 0), self._total_updates),
            "learner/updates": tally.counts["update"],
            "learner/padding_share": 1 - report["learner/tokens"] / processed if processed else 0.0,
            "learner/action_tokens": float(sum(m.tokens for m in plan.minibatches)),
            "learner/trajectories": float(sum(len(m.trajectories) for m in plan.minibatches)),
            "reward/mean": float(rewards.mean()) if len(rewards) else 0.0,
            "reward/std": float(rewards.std()) if len(rewards) else 0.0,
        }


def _spread(flat: Tensor, window: Tensor) -> Tensor:
    """``flat`` float32[A], row by row, at the True places of ``window`` bool[r, w]; 0 elsewhere."""
    return torch.zeros(window.shape, device=flat.device).masked_scatter(window, flat)
