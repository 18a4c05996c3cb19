"""Learning-rate schedule as a pure function of the update number: nothing to save, nothing to restore wrongly."""

from __future__ import annotations

import math

from rayrl.config.schema import OptimConfig
from rayrl.errors import ConfigError


def learning_rate(optim: OptimConfig, peak: float, update: int, total: int) -> float:
    """Rate of optimiser update number ``update`` (0 is the first) out of ``total``.

    Linear warm-up reaches ``peak`` at update ``warmup_steps``; then constant, linear or half-cosine decay to
    ``min_lr_ratio * peak`` at the last update. Raises `ConfigError` for an unknown schedule.
    """
    if update < optim.warmup_steps:
        return peak * (update + 1) / (optim.warmup_steps + 1)
    progress = min(1.0, (update - optim.warmup_steps) / max(1, total - 1 - optim.warmup_steps))
    match optim.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - progress
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * progress))
        case other:
            raise ConfigError(f"learner.optim.schedule is {other!r}", "choose constant, linear or cosine")
    return peak * (optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * share)
