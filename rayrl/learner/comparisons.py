"""Losses over whole groups, inside the step: which pairs a micro-batch holds, and what its sum is divided by.

Pairs are built once per step from metadata, the same on every rank; each belongs to the micro-batch that holds its group.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rayrl.algorithms import group_loss, registry
from rayrl.algorithms.pairs import Pairs
from rayrl.learner.rows import Minibatch, Rows, StepPlan


class Comparisons:
    """The pairs of one step and the loss that reads them."""

    def __init__(self, algorithm: registry.Resolved, plan: StepPlan, rows: Rows, pairs: Pairs | None) -> None:
        self._algorithm, self._rows = algorithm, rows
        self._pairs = pairs if pairs is not None else Pairs(*(np.zeros(0, t) for t in (np.int64, np.int64, np.float32, np.float32)))
        self._counts_pairs = pairs is not None
        self._rewards, self._group = torch.from_numpy(plan.rewards)[rows.position], torch.from_numpy(plan.group)[rows.position]
        self._row_of = {int(position): r for r, position in enumerate(rows.position)}
        self._loss = algorithm.load("loss")

    def weight(self, minibatch: Minibatch) -> float:
        """Sum of the weights of the minibatch's pairs on all ranks; its trajectories where the loss has no pairs, or there is none."""
        of_pairs = float(self._pairs.weight[np.isin(self._pairs.chosen, minibatch.trajectories)].sum(dtype=np.float64))
        return of_pairs if self._counts_pairs and of_pairs > 0 else float(len(minibatch.trajectories))

    def loss(
        self,
        minibatch: Minibatch,
        micro: list[int],
        logprobs: Tensor,
        old: Tensor,
        behavior: Tensor,
        reference: Tensor | None,
        opponents: Tensor | None,
        mask: Tensor,
    ) -> group_loss.GroupLoss:
        """The sum over the pairs (or trajectories) of a micro-batch of rows; all tensors [B, T], fields of `group_loss.GroupInputs`."""
        device = logprobs.device
        at = {r: i for i, r in enumerate(micro)}
        held = [p for p, c in enumerate(self._pairs.chosen) if self._row_of.get(int(c)) in at]
        row = lambda positions: torch.tensor([at[self._row_of[int(p)]] for p in positions[held]], dtype=torch.int64, device=device)
        inputs = group_loss.GroupInputs(
            logprobs=logprobs,
            prox_logprobs=old,
            behavior_logprobs=behavior,
            reference_logprobs=reference,
            action_mask=mask,
            group=self._group[micro].to(device),
            rewards=self._rewards[micro].to(device),
            chosen=row(self._pairs.chosen),
            rejected=row(self._pairs.rejected),
            target=torch.from_numpy(self._pairs.target[held]).to(device),
            weight=torch.from_numpy(self._pairs.weight[held]).to(device),
            opponent_logprobs=opponents,
            no_pairs=not np.isin(self._pairs.chosen, minibatch.trajectories).any(),
        )
        return self._loss(inputs, **self._algorithm.knobs["loss"])
