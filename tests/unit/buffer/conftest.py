"""Small builders for the buffer's tests."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.buffer.core import BufferCore
from rayrl.buffer.scoring import RewardRules
from rayrl.config.schema import BufferConfig
from rayrl.types import GroupInfo, Prompt, PromptTask, RewardRecord, RewardStatus, SamplingParams


class Make:
    """Builders of the nouns that a buffer handles."""

    @staticmethod
    def task(ordinal: int) -> PromptTask:
        return PromptTask(Prompt(ordinal, np.arange(3, dtype=np.int32)), 2, SamplingParams())

    @classmethod
    def tasks(cls, *ordinals: int) -> list[PromptTask]:
        return [cls.task(o) for o in ordinals]

    @staticmethod
    def group(ordinal: int, version: int = 0, *, n: int = 2, nbytes: int = 100, finish: tuple[str, ...] = ()) -> GroupInfo:
        lengths = np.full(n, 8, dtype=np.int32)
        return GroupInfo(ordinal, f"payload-{ordinal}", nbytes, lengths, lengths // 2, version, version, finish_reasons=finish)

    @staticmethod
    def records(*values: float | None, component: str = "exact") -> list[list[RewardRecord]]:
        """One record per sample; None is a failed score."""
        return [
            [RewardRecord(component, RewardStatus.FAILED if v is None else RewardStatus.SCORED, v, error="boom" if v is None else "")]
            for v in values
        ]

    @staticmethod
    def rules(weights: dict[str, float] | None = None, **kwargs) -> RewardRules:
        def weighted(components, weights):
            return sum(components[name] * np.float32(weight) for name, weight in weights.items())

        return RewardRules(weights or {"exact": 1.0}, kwargs.pop("aggregate", weighted), **kwargs)

    @classmethod
    def core(cls, *, jobs=("verifiers",), num_workers=0, rules=None, **config) -> BufferCore:
        config = {"max_staleness": 1, "lease_s": 10.0} | config
        return BufferCore(BufferConfig(**config), rules or cls.rules(), jobs=jobs, num_workers=num_workers)

    @classmethod
    def ready(cls, core: BufferCore, *ordinals: int, version: int = 0, values=(0.0, 1.0)) -> None:
        """Takes ordinals all the way from admission to ready."""
        core.admit(cls.tasks(*ordinals))
        core.lease_prompts("maker", 0, 10**6, now=0.0)
        assert all(core.put_groups("maker", [cls.group(o, version) for o in ordinals]))
        leased = [info.ordinal for info in core.lease_unscored("grader", "verifiers", 10**6, now=0.0)]
        core.put_rewards("grader", {o: cls.records(*values) for o in leased})


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make
