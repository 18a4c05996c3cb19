"""The learning rate is a function of the update number alone."""

from __future__ import annotations

import math

import pytest

from rayrl.config.schema import OptimConfig
from rayrl.errors import ConfigError
from rayrl.learner.schedule import learning_rate


def rates(total: int, **settings) -> list[float]:
    return [learning_rate(OptimConfig(**settings), 2.0, u, total) for u in range(total)]


def test_constant_stays_at_the_peak():
    assert rates(5) == [2.0] * 5


def test_warmup_rises_linearly_to_the_peak_and_never_starts_at_zero():
    assert rates(6, warmup_steps=3) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_linear_ends_at_the_floor():
    assert rates(5, schedule="linear", min_lr_ratio=0.2) == pytest.approx([2.0, 1.6, 1.2, 0.8, 0.4])


def test_cosine_follows_half_a_period_after_warmup():
    got = rates(6, schedule="cosine", warmup_steps=1)
    assert got[1:] == pytest.approx([1 + math.cos(math.pi * k / 4) for k in range(5)])


def test_beyond_the_last_update_the_floor_holds():
    assert learning_rate(OptimConfig(schedule="cosine", min_lr_ratio=0.1), 1.0, 500, 10) == pytest.approx(0.1)


def test_an_unknown_schedule_is_refused_by_name():
    with pytest.raises(ConfigError, match="triangle"):
        learning_rate(OptimConfig(schedule="triangle"), 1.0, 0, 10)
