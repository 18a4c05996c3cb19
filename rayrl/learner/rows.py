"""One learner step on paper, and the rows of data that one rank brings to it.

`StepPlan` follows from a batch's metadata alone, so every rank derives the same one without a collective: which group goes to
which rank, in which minibatch, cut into how many micro-batches. `Rows` are the trajectories that this rank fetched.

Everything per token is kept compact: column ``j`` of a row is its ``j``-th *action* token; prompt and environment tokens have no
column. Legend: ``N`` trajectories of the batch in group order, ``R`` rows of this rank, ``W`` most action tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayrl.data import arrow, packing
from rayrl.learner.forward import Inputs, build_inputs
from rayrl.protocols import Store
from rayrl.types import LearnBatch, ScoredGroup

REFERENCE_COLUMN = "logprobs"
"""Column of a reference payload: one ragged float32 list per trajectory of the group."""
OPPONENT_COLUMN = "opponents"
"""Another one where `reference.opponents` names some: the weighted mean of their log-probs."""


@dataclass(frozen=True)
class Minibatch:
    """One optimiser update, as every rank sees it."""

    groups: list[int]
    """Positions in ``batch.groups`` that this rank works on."""
    micro_batches: list[list[int]]
    """Indices into `Rows`; empty ones only keep this rank in step with the others."""
    action_tokens: np.ndarray
    """int64: action tokens of every trained trajectory of this minibatch on any rank, once for each time that it counts;
    denominators follow from it."""
    trajectories: np.ndarray
    """int64: position among the N trajectories of the batch of every trained trajectory of this minibatch on any rank."""
    tokens: int
    """Action tokens that are computed: those of ``trajectories``."""

    @property
    def loss_tokens(self) -> int:
        """Action tokens that the loss counts: more than ``tokens`` where trajectories count several times."""
        return int(self.action_tokens.sum())


@dataclass(frozen=True)
class StepPlan:
    """Who does what in one step."""

    minibatches: list[Minibatch]
    groups: list[int]
    """This rank's groups, in the order of its rows."""
    action_tokens: np.ndarray
    """int64[N], trained or not."""
    kept: np.ndarray
    """bool[N]: not masked out by the buffer."""
    group: np.ndarray
    """int64[N]: position of each trajectory's group in the batch."""
    rewards: np.ndarray
    """float32[N]."""
    components: dict[str, np.ndarray]
    """float32[N] per reward component that all groups have; NaN where a score failed."""


def trained(group: ScoredGroup) -> np.ndarray:
    """bool[n]: kept samples in which the policy chose at least one token."""
    return group.kept & (group.info.action_tokens > 0)


def plan_step(
    batch: LearnBatch,
    *,
    rank: int,
    ranks: int,
    minibatches: int,
    token_budget: int,
    packed: bool,
    seed: int,
    whole_groups: bool = False,
    launch: int = packing.LAUNCH_TOKENS,
) -> StepPlan:
    """Deals whole groups first to minibatches (in an order drawn from ``seed`` and ``batch.step``), then to ranks by tokens.

    ``whole_groups``: a micro-batch holds all trained samples of its prompts; ``launch``: see `packing.launch_tokens`.
    """
    groups = batch.groups
    order = np.arange(len(groups))
    if minibatches > 1:
        order = np.random.default_rng([seed, batch.step]).permutation(len(groups))
    parts = [sorted(map(int, part)) for part in np.array_split(order, max(1, min(minibatches, len(groups))))]
    starts = np.concatenate([[0], np.cumsum([len(g.kept) for g in groups])]).astype(np.int64)
    plan_ranks = packing.plan_ranks_by_group if whole_groups else partial(_plan_ranks, launch=launch)
    own: list[int] = []
    cuts = []
    for part in parts:
        shares = packing.partition([int(groups[g].info.lengths[trained(groups[g])].sum()) for g in part], ranks)
        lengths = [[groups[part[k]].info.lengths[trained(groups[part[k]])] for k in share] for share in shares]
        offset = int(sum(trained(groups[g]).sum() for g in own))
        mine = [part[k] for k in shares[rank]]
        micro = plan_ranks(lengths, token_budget, packed=packed)[rank]
        # An update needs a backward pass on every rank, also where nothing may be trained on.
        micro = [[offset + row for row in rows] for rows in micro] or [[]]
        action_tokens = _concatenate(groups[g].info.action_tokens[trained(groups[g])] for g in part)
        members = _concatenate(starts[g] + np.flatnonzero(trained(groups[g])) for g in part)
        cuts.append(Minibatch(mine, micro, action_tokens, members, int(action_tokens.sum())))
        own += mine
    return StepPlan(
        minibatches=cuts,
        groups=own,
        action_tokens=_concatenate(g.info.action_tokens for g in groups),
        kept=_concatenate((g.kept for g in groups), np.bool_),
        group=np.repeat(np.arange(len(groups)), [len(g.kept) for g in groups]),
        rewards=_concatenate((g.rewards for g in groups), np.float32),
        components={
            name: _concatenate((g.components[name] for g in groups), np.float32)
            for name in (groups[0].components if groups else ())
            if all(name in g.components for g in groups)
        },
    )


def _plan_ranks(lengths: list[list[np.ndarray]], budget: int, *, packed: bool, launch: int) -> list[packing.MicroBatches]:
    return packing.plan_ranks([_concatenate(own) for own in lengths], budget, packed=packed, launch=launch)


def count_times(plan: StepPlan, rows: Rows, times: np.ndarray) -> StepPlan:
    """The plan in which trajectory i counts ``times[i]`` times (int64[N]): in denominators, and 0 times is not computed at all.

    The rows' losses must be multiplied by `times` too.
    """
    minibatches = []
    for m in plan.minibatches:
        counted = times[m.trajectories]
        micro = [[r for r in micro if times[rows.position[r]] > 0] for micro in m.micro_batches]
        minibatches.append(
            replace(
                m,
                micro_batches=micro,
                action_tokens=np.repeat(m.action_tokens, counted),
                trajectories=m.trajectories[counted > 0],
                tokens=int(m.action_tokens[counted > 0].sum()),
            )
        )
    return replace(plan, minibatches=minibatches)


@dataclass(frozen=True)
class Rows:
    """The trained trajectories of one rank, in plan order."""

    token_ids: list[np.ndarray]
    """int32[T] each: views of the store."""
    action_masks: list[np.ndarray]
    """bool[T] each."""
    position: np.ndarray
    """int64[R]: index of each row among the N trajectories of the batch."""
    mask: Tensor
    """bool[R, W]: True in the first columns, one per action token."""
    behavior: Tensor
    """float32[R, W]."""
    reference: Tensor | None
    """float32[R, W]."""
    opponents: Tensor | None = None
    """float32[R, W]: weighted mean of the opponents' log-probs."""
    times: Tensor | None = None
    """int64[R]: how often each row counts in the loss; None for once each."""

    def inputs(self, rows: Sequence[int], *, packed: bool, device: torch.device) -> Inputs:
        """Tensors for a forward pass over ``rows``."""
        return build_inputs([self.token_ids[r] for r in rows], [self.action_masks[r] for r in rows], packed=packed, device=device)

    def window(self, rows: Sequence[int]) -> Tensor:
        """bool[len(rows), w]: `mask` of ``rows``, cut to their longest."""
        mask = self.mask[list(rows)]
        return mask[:, : int(mask.sum(-1).max()) if len(rows) else 0]


def fetch_rows(batch: LearnBatch, plan: StepPlan, reference: Sequence[Any] | None, store: Store, *, timeout_s: float) -> Rows:
    """Reads this rank's payloads, and reference log-probs where given. Raises `ValueError` where payload and metadata disagree."""
    starts = np.concatenate([[0], np.cumsum([len(g.kept) for g in batch.groups])])
    ids, masks, behavior, ref, others, position = [], [], [], [], [], []
    for g in plan.groups:
        group = batch.groups[g]
        payload = store.get(group.info.payload, timeout_s=timeout_s)
        group_ids = arrow.split(payload, "token_ids")
        if [len(x) for x in group_ids] != group.info.lengths.tolist():
            raise ValueError(f"payload of prompt {group.info.ordinal} has lengths {[len(x) for x in group_ids]}, not {group.info.lengths}")
        group_masks = [m.view(np.bool_) for m in arrow.split(payload, "action_mask")]
        group_behavior = arrow.split(payload, "behavior_logprobs")
        frozen = store.get(reference[g], timeout_s=timeout_s) if reference is not None else None
        group_ref = arrow.split(frozen, REFERENCE_COLUMN) if frozen is not None else None
        group_others = arrow.split(frozen, OPPONENT_COLUMN) if frozen is not None and OPPONENT_COLUMN in frozen.schema.names else None
        for i in np.flatnonzero(trained(group)):
            ids.append(group_ids[i])
            masks.append(group_masks[i])
            behavior.append(group_behavior[i][group_masks[i]])
            if group_ref is not None:
                ref.append(group_ref[i][group_masks[i]])
            if group_others is not None:
                others.append(group_others[i][group_masks[i]])
            position.append(int(starts[g]) + int(i))
    mask = _pad([np.ones(len(b), np.bool_) for b in behavior], np.bool_)
    return Rows(
        ids,
        masks,
        np.array(position, np.int64),
        mask,
        _pad(behavior, np.float32),
        _pad(ref, np.float32) if reference is not None else None,
        _pad(others, np.float32) if others else None,
    )


def _pad(rows: list[np.ndarray], dtype: type) -> Tensor:
    out = np.zeros((len(rows), max(map(len, rows), default=0)), dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def _concatenate(arrays: Any, dtype: type = np.int64) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)
