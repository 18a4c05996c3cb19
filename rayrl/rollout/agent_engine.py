"""The policy of an environment agent as an env worker acts by it: log-probabilities from wherever its network is, actions drawn here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rayrl.models.agent import Observations
from rayrl.rollout.agent_policy import Policy
from rayrl.types import FloatArray, IntArray, SyncReport, WeightUpdate


@dataclass(frozen=True, slots=True)
class Choice:
    """What the policy did in K environments."""

    actions: IntArray
    """int32[K]."""
    logprobs: FloatArray
    """float32[K]."""
    state: Tensor
    """float32[K, H] after the step."""


class AgentEngine:
    """One thread owns it. Actions follow from weights, observations and the seed alone."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy = policy
        self._rng = np.random.default_rng(seed)

    @property
    def version(self) -> int:
        """Of the weights that the last step was computed with, or loaded since; -1 before any."""
        return self.policy.version

    def reseed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    @contextmanager
    def drawing_from(self, seed: int) -> Iterator[None]:
        """Random numbers of another source for a while; the own ones go on afterwards where they were."""
        own, self._rng = self._rng, np.random.default_rng(seed)
        try:
            yield
        finally:
            self._rng = own

    def act(self, observations: Observations, state: Tensor, *, greedy: bool = False) -> Choice:
        """One step of K environments; ``greedy`` takes the likeliest action and draws nothing."""
        table, after = self.policy.forward(observations, state)
        if greedy:
            actions = table.argmax(-1)
        else:
            cumulated = np.exp(table, dtype=np.float64).cumsum(-1)
            actions = (cumulated > self._rng.random((len(table), 1)) * cumulated[:, -1:]).argmax(-1)
        rows = np.arange(len(table))
        return Choice(actions.astype(np.int32), table[rows, actions], after)

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Loads and proves them (`protocols.Engine.update_weights`). Raises `WeightSyncError`."""
        return self.policy.update_weights(update)
