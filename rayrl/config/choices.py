"""The values that each enumerated setting may take and the range of each number, in one place.

Settings that also accept ``module:attribute`` (environments, verifiers, tasks) are not enumerated here: their registries are
asked when they are loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from rayrl.algorithms import registry
from rayrl.config.schema import BudgetConfig, DeadlinesConfig

CHOICES: dict[str, tuple[str, ...]] = {
    "model.dtype": ("bfloat16", "float32"),
    "data.too_long": ("error", "skip"),
    "rollout.engine": ("auto", "vllm", "torch", "fake"),
    "rewards.aggregate": tuple(registry.AGGREGATORS),
    "rewards.on_failure": ("drop", "fallback", "rescore"),
    "reward_models.*.network": ("transformer", "char_cnn"),
    "reward_models.*.ties": ("half", "davidson"),
    "reward_models.*.objective": ("ranking", "plackett_luce", "classification", "regression", "gaussian"),
    "reward_models.*.choose": ("uncertainty", "random"),
    "feedback.judge": ("none", "http", "vllm", "replay"),
    "feedback.engine.engine": ("auto", "vllm", "torch", "fake"),
    "feedback.engine.dtype": ("bfloat16", "float32"),
    "feedback.priority": ("first_sightings", "frequency", "uncertainty", "lifo"),
    "feedback.pairs.inconsistent": ("tie", "failed"),
    "feedback.pairs.select": ("shown", "random", "uncertainty"),
    "agent.credit": ("vtrace", "gae"),
    "agent.clip_around": ("behavior", "proximal"),
    "agent.network.size": ("oni", "small"),
    "agent.intrinsic.pays": ("next_action", "last_action"),
    "agent.intrinsic.kind": ("none", "count", "retrieval", "classification", "ranking", "cosine"),
    "algorithm.name": tuple(registry.PRESETS),
    "algorithm.advantage": tuple(registry.ADVANTAGES),
    "algorithm.loss": tuple(registry.LOSSES),
    "algorithm.loss_reduction": tuple(registry.REDUCTIONS),
    "algorithm.filter": tuple(registry.FILTERS),
    "algorithm.shaping": tuple(registry.SHAPINGS),
    "algorithm.steps": tuple(registry.STEPS),
    "algorithm.pairs": tuple(registry.PAIRS),
    "algorithm.resample": tuple(registry.RESAMPLINGS),
    "algorithm.kl.place": ("loss", "reward"),
    "algorithm.kl.estimator": ("k1", "k2", "k3"),
    "algorithm.correction.mode": ("auto", "none", "truncated", "masked", "decoupled"),
    "algorithm.correction.level": ("token", "sequence"),
    "learner.backend": ("deepspeed", "torch"),
    "learner.attention": ("auto", "sdpa", "eager", "flash_attention_2"),
    "learner.optim.schedule": ("constant", "linear", "cosine"),
    "sync.transport": ("auto", "store", "nccl", "ipc"),
    "buffer.select": ("oldest", "priority", "newest"),
    "placement.mode": ("auto", "cpu", "disaggregated", "colocated"),
    "placement.runtime": ("ray", "in_process"),
    "telemetry.wandb": ("online", "offline", "off"),
}
"""Nullable settings may be null beside these."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``open_low`` and ``open_high`` leave the end out."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"greater than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"


_COUNT, _NOT_NEGATIVE, _POSITIVE = Range(1), Range(0), Range(0, open_low=True)
_SHARE, _BELOW_ONE = Range(0, 1), Range(0, 1, open_high=True)

RANGES: dict[str, Range] = {
    **dict.fromkeys(("run.steps", "batch.groups_per_step", "batch.group_size", "model.max_length", "data.max_prompt_length"), _COUNT),
    **dict.fromkeys(("rollout.num_engines", "rollout.tensor_parallel", "rollout.max_running", "rollout.max_turns"), _COUNT),
    **dict.fromkeys(("learner.ranks", "learner.token_budget", "learner.epochs", "learner.minibatches"), _COUNT),
    **dict.fromkeys(("reference.actors", "reference.token_budget", "rewards.workers", "rewards.memory_mib", "evaluation.samples"), _COUNT),
    **dict.fromkeys(("buffer.max_bytes", "buffer.max_groups", "buffer.max_refill", "buffer.max_attempts"), _COUNT),
    **dict.fromkeys(("sync.bucket_mib", "placement.nodes", "placement.object_store_mib", "checkpoint.keep"), _COUNT),
    **dict.fromkeys(
        ("agent.watched_frames", "buffer.max_staleness", "checkpoint.every", "evaluation.every", "telemetry.print_samples"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(
        ("rollout.cpu_threads", "learner.cpu_threads", "reference.cpu_threads", "placement.gpus_per_node", "placement.cpus_per_node"),
        _NOT_NEGATIVE,
    ),
    "reference.opponents.*.weight": _NOT_NEGATIVE,
    "placement.max_rollout": _NOT_NEGATIVE,
    "data.shots": _NOT_NEGATIVE,
    **dict.fromkeys(("learner.optim.weight_decay", "learner.optim.grad_clip", "learner.optim.warmup_steps"), _NOT_NEGATIVE),
    **dict.fromkeys(("learner.optim.lr", "learner.optim.critic_lr", "sync.canary_tolerance", "algorithm.kl.coef"), _NOT_NEGATIVE),
    **dict.fromkeys(("algorithm.value_coef", "algorithm.value_clip", "algorithm.entropy_coef", "evaluation.temperature"), _NOT_NEGATIVE),
    **dict.fromkeys(("rollout.sampling.top_k", "algorithm.correction.floor", "data.eval_size", "run.tokens"), _NOT_NEGATIVE),
    **dict.fromkeys(("rewards.timeout_s", "rollout.kv_cache_gib", "learner.optim.eps", "placement.learner_gpus_per_rank"), _POSITIVE),
    **dict.fromkeys(("algorithm.clip_low", "algorithm.clip_high", "algorithm.correction.cap", "buffer.lease_s"), _POSITIVE),
    **dict.fromkeys((f"deadlines.{field.name}" for field in fields(DeadlinesConfig)), _POSITIVE),
    **dict.fromkeys(("agent.workers", "agent.envs_per_worker", "agent.fragment_length", "agent.eval_episodes"), _COUNT),
    **dict.fromkeys(("agent.inference.actors", "agent.inference.gpus"), _NOT_NEGATIVE),
    "agent.inference.cpu_threads": _COUNT,
    **dict.fromkeys(("agent.network.channels", "agent.network.hidden", "agent.network.features"), _COUNT),
    **dict.fromkeys(("agent.rho_clip", "agent.c_clip", "agent.clip", "agent.reward_scale", "agent.reward_clip"), _POSITIVE),
    **dict.fromkeys(("agent.value_coef", "agent.value_clip", "agent.entropy_coef", "agent.intrinsic.coef"), _NOT_NEGATIVE),
    **dict.fromkeys(("agent.extrinsic_coef", "agent.intrinsic.count_exponent"), _NOT_NEGATIVE),
    **dict.fromkeys(("agent.gamma", "agent.lam"), _SHARE),
    **dict.fromkeys(("algorithm.gamma", "algorithm.lam", "learner.optim.min_lr_ratio"), _SHARE),
    **dict.fromkeys(("learner.ema_decay", "rollout.sampling.min_p"), _BELOW_ONE),
    **dict.fromkeys(("rollout.gpu_memory_utilization", "rollout.sampling.top_p"), Range(0, 1, open_low=True)),
    **dict.fromkeys(("feedback.concurrency", "feedback.max_queued", "feedback.max_known", "feedback.max_text"), _COUNT),
    **dict.fromkeys((f"feedback.engine.{name}" for name in ("actors", "tensor_parallel", "max_length", "cpu_threads")), _COUNT),
    **dict.fromkeys(("feedback.retry.max_attempts", "feedback.retry.breaker_failures", "feedback.sampling.max_tokens"), _COUNT),
    **dict.fromkeys(("feedback.flush_s", "feedback.deadline_s", "feedback.retry.backoff_max_s", "feedback.retry.breaker_s"), _POSITIVE),
    **dict.fromkeys(("feedback.retry.backoff_s", "feedback.sampling.temperature"), _NOT_NEGATIVE),
    **dict.fromkeys((f"feedback.budget.{field.name}" for field in fields(BudgetConfig)), _NOT_NEGATIVE),
    **dict.fromkeys(("feedback.sampling.top_p", "feedback.engine.gpu_memory_utilization"), Range(0, 1, open_low=True)),
    "feedback.engine.kv_cache_gib": _POSITIVE,
    **dict.fromkeys((f"reward_models.*.{name}" for name in ("classes", "heads", "max_length", "batch_size", "min_labels")), _COUNT),
    **dict.fromkeys(
        (f"reward_models.*.{name}" for name in ("updates_per_arrival", "capacity", "questions_per_group", "cpu_threads")), _COUNT
    ),
    **dict.fromkeys((f"reward_models.*.{name}" for name in ("centring", "huber", "weight_decay", "grad_clip", "gpus")), _NOT_NEGATIVE),
    "reward_models.*.warmup_updates": _NOT_NEGATIVE,
    **dict.fromkeys(("reward_models.*.lr", "rewards.deadline_s"), _POSITIVE),
    **dict.fromkeys(("reward_models.*.validation_share", "reward_models.*.dropout", "reward_models.*.min_accuracy"), _BELOW_ONE),
    "reward_models.*.passes": _NOT_NEGATIVE,
    "rewards.components.*.head": _NOT_NEGATIVE,
    "rollout.sampling.max_tokens": _COUNT,
    "rollout.sampling.temperature": _NOT_NEGATIVE,
    "learner.zero_stage": Range(0, 3),
}


def choices(key: str) -> tuple[str, ...]:
    """Values that ``key`` may take; empty for a key that is not enumerated."""
    return CHOICES.get(key, ())
