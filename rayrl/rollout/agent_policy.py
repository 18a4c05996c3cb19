"""Where an agent's network is computed for its env workers: in their own process, or in an actor that several of them share."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rayrl.models.agent import AgentNet, Observations
from rayrl.models.agent_canary import canary_logprobs
from rayrl.models.agent_compiled import CompiledAct
from rayrl.rollout.canary import canary_report
from rayrl.rollout.lanes import patiently
from rayrl.rollout.sightings import Later
from rayrl.sync import plan as weight_plan
from rayrl.types import FloatArray, SyncReport, WeightUpdate


class Policy(Protocol):
    """Owned by one thread."""

    version: int
    """Of the weights that `forward` used last."""

    def initial_state(self, envs: int) -> Tensor:
        """float32[K, H]: where every episode starts."""

    def forward(self, observations: Observations, state: Tensor) -> tuple[FloatArray, Tensor]:
        """One step of K environments: log-probabilities of all actions float32[K, A], and the state float32[K, H] after it."""

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """See `protocols.Engine.update_weights`."""


class LocalPolicy:
    """The network in this process; new weights are loaded between two steps."""

    def __init__(
        self,
        net: AgentNet,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: Callable[[AgentNet], CompiledAct] | None = None,
    ) -> None:
        """``dtype``: of what it acts with, as the learner computes; weights arrive and are proven in float32. ``compiled`` makes what acts
        for one number of environments, on the CPU, of the network in ``dtype``; for any other number the network itself does."""
        self.net, self.version = net.to(device).eval().requires_grad_(False), -1
        self._device, self._acting = torch.device(device), self.net
        if dtype != torch.float32:
            self._acting = deepcopy(self.net)
            for parameter in self._acting.parameters():  # not the buffers: scales of numbers keep their precision
                parameter.data = parameter.data.to(dtype)
        self._compiled = compiled(self._acting) if compiled else None

    def initial_state(self, envs: int) -> Tensor:
        return self.net.initial_state(envs)

    @torch.inference_mode()
    def forward(self, observations: Observations, state: Tensor) -> tuple[FloatArray, Tensor]:
        if self._compiled and len(state) == self._compiled.envs:
            logprobs, after = self._compiled(observations, state)
            return logprobs.numpy(), after.float()
        there = {name: array.to(self._device) for name, array in observations.items()}
        logprobs, after = self._acting.act(there, state.to(self._device))
        return logprobs.cpu().numpy(), after.float().cpu()

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Loads and proves them. Raises `WeightSyncError`."""
        started = time.perf_counter()
        weight_plan.verify(update.manifest, update.buckets)
        named = dict(self.net.named_parameters())
        weight_plan.check_compatible(update.manifest, {name: p.shape for name, p in named.items()})
        with torch.no_grad():
            for name, tensor in weight_plan.unpack(update.manifest, update.buckets):
                named[name].copy_(tensor)
            if self._acting is not self.net:
                for own, exact in zip(self._acting.parameters(), self.net.parameters(), strict=True):
                    own.copy_(exact)
        self.version, loaded = update.manifest.version, time.perf_counter() - started
        prove = lambda ids: canary_logprobs(self.net, ids, self._device)
        return canary_report(update, prove, paused_s=loaded, load_s=loaded)


class RemotePolicy:
    """The network of an `inference.InferenceActor`, which gets the weights; the recurrent state travels with each step."""

    def __init__(self, ask: Callable[[dict[str, np.ndarray], FloatArray], Later], hidden: int, call_s: float) -> None:
        """``ask`` starts a call of the actor's ``step``, or of that of its replacement; ``hidden`` is H; ``call_s`` limits a call."""
        self._ask, self._hidden, self._call_s = ask, hidden, call_s
        self.version = -1

    def initial_state(self, envs: int) -> Tensor:
        return torch.zeros(envs, self._hidden)

    def forward(self, observations: Observations, state: Tensor) -> tuple[FloatArray, Tensor]:
        """Where the actor dies its replacement is asked, once it is there and has weights. Raises `RoleDied` when that takes too long."""
        shown = {name: tensor.numpy() for name, tensor in observations.items()}
        self.version, logprobs, after = patiently(lambda: self._ask(shown, state.numpy()).result(self._call_s))
        return logprobs, torch.from_numpy(np.array(after))  # a copy: what arrived may be read-only

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        raise TypeError("weights go to the inference actor, not to its callers")
