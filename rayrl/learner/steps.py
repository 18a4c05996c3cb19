"""Rewards of single steps on the tokens that end them.

A component that scores steps reports one value per step of the text; which tokens a step is made of follows from the ids
themselves. Legend: ``R`` rows of this rank, ``W`` most action tokens of a row, ``S`` most steps of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rayrl.data.steps import step_ends
from rayrl.errors import ConfigError
from rayrl.learner.rows import Rows
from rayrl.types import LearnBatch

Transform = Callable[[Tensor, Tensor], Tensor]
"""``f(values float32[R, S], mask bool[R, S]) -> float32[R, S]``."""


@dataclass(frozen=True)
class StepPay:
    rewards: Tensor
    """float32[R, W]: what a step is paid, on its last token."""
    tokens: Tensor
    """int64[R, W]: how many tokens the step has, on its last token; 0 elsewhere."""


def pay_steps(
    batch: LearnBatch, rows: Rows, component: str, separator: str, decode: Callable[[int], str] | None, transform: Transform
) -> StepPay:
    """Raises `ConfigError` where the component scored no steps, or another number of steps than the tokens have."""
    if decode is None:
        raise ValueError("paying steps needs the text of tokens")
    text = lru_cache(maxsize=None)(decode)
    scored = _values(batch, component)
    found: list[tuple[tuple[float, ...], list[int]]] = []
    for ids, mask, position in zip(rows.token_ids, rows.action_masks, rows.position.tolist(), strict=True):
        ends, values = step_ends([text(int(i)) for i in ids[mask]], separator), scored[position]
        if len(ends) != len(values):
            raise ConfigError(
                f"reward component {component!r} scored {len(values)} steps of a sample that has {len(ends)} between {separator!r}",
                "algorithm.args.separator must be the separator that the component splits at",
            )
        found.append((values, ends))
    most = max((len(values) for values, _ in found), default=0)
    values, mask = torch.zeros(len(found), most), torch.zeros(len(found), most, dtype=torch.bool)
    for r, (own, _) in enumerate(found):
        values[r, : len(own)], mask[r, : len(own)] = torch.tensor(own), True
    paid = transform(values, mask)
    rewards, tokens = torch.zeros(rows.mask.shape), torch.zeros(rows.mask.shape, dtype=torch.int64)
    for r, (own, ends) in enumerate(found):
        at = torch.tensor(ends, dtype=torch.int64)
        rewards[r].index_add_(0, at, paid[r, : len(own)])
        tokens[r].index_add_(0, at, at - torch.cat([torch.tensor([-1]), at[:-1]]) if len(at) else at)
    return StepPay(rewards, tokens)


def _values(batch: LearnBatch, component: str) -> list[tuple[float, ...]]:
    """Step values of each of the N trajectories."""
    values: list[tuple[float, ...]] = []
    for group in batch.groups:
        if component not in group.step_values and np.isfinite(group.components.get(component, np.zeros(1))).any():
            raise ConfigError(
                f"reward component {component!r} reports one number for a whole sample and algorithm.steps pays single steps",
                "name a component whose verifier returns a list, one number per step, in algorithm.args.component",
            )
        values += group.step_values.get(component, [()] * len(group.kept))
    return values
