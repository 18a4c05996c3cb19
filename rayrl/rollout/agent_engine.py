"""The policy of an environment agent inside an env worker: local inference on the CPU, weights taken between two fragments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayrl.models.agent import AgentNet, Observations
from rayrl.models.agent_canary import canary_logprobs
from rayrl.rollout.canary import canary_report
from rayrl.sync import plan as weight_plan
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

    def __init__(self, net: AgentNet, seed: int) -> None:
        self.net, self.version = net.eval().requires_grad_(False), -1
        self._rng = np.random.default_rng(seed)

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

    @torch.inference_mode()
    def act(self, observations: Observations, state: Tensor, *, greedy: bool = False) -> Choice:
        """One step of K environments; ``greedy`` takes the likeliest action and draws nothing."""
        logprobs, _, after = self.net.step(observations, state)
        table = logprobs.numpy()
        if greedy:
            actions = table.argmax(-1)
        else:
            cumulated = np.exp(table, dtype=np.float64).cumsum(-1)
            actions = (cumulated > self._rng.random((len(table), 1)) * cumulated[:, -1:]).argmax(-1)
        rows = np.arange(len(table))
        return Choice(actions.astype(np.int32), table[rows, actions], after)

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Loads and proves them (`protocols.Engine.update_weights`). Raises `WeightSyncError`."""
        started = time.perf_counter()
        weight_plan.verify(update.manifest, update.buckets)
        named = dict(self.net.named_parameters())
        weight_plan.check_compatible(update.manifest, {name: p.shape for name, p in named.items()})
        with torch.no_grad():
            for name, tensor in weight_plan.unpack(update.manifest, update.buckets):
                named[name].copy_(tensor)
        self.version, loaded = update.manifest.version, time.perf_counter() - started
        prove = lambda ids: canary_logprobs(self.net, ids, torch.device("cpu"))
        return canary_report(update, prove, paused_s=loaded, load_s=loaded)
