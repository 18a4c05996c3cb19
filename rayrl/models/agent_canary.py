"""What learner and env workers compute after a weight update to prove that they hold the same network.

An agent has no prompts: the canary's ids seed a fixed batch of observations, drawn from the environment's descriptor on both sides.
"""

from __future__ import annotations

import numpy as np
import torch

from rayrl.agent_types import ArrayKind, EnvSpec
from rayrl.models.agent import AgentNet
from rayrl.types import FloatArray, IntArray

_ENVS = 8


def canary_observations(spec: EnvSpec, ids: IntArray, envs: int = _ENVS) -> dict[str, np.ndarray]:
    """[envs, *shape] per array: categories and characters of any value, small numbers."""
    rng = np.random.default_rng(np.asarray(ids, dtype=np.uint32))
    found = {}
    for name, array in sorted(spec.observations.items()):
        high = 100 if array.kind is ArrayKind.NUMBERS else array.categories
        found[name] = rng.integers(0, high, (envs, *array.shape)).astype(array.dtype)
    return found


@torch.no_grad()
def canary_logprobs(net: AgentNet, ids: IntArray, device: torch.device) -> FloatArray:
    """float32[8·A]: log-probability of every action in the canary's observations, one step from the initial state."""
    observations = {name: torch.from_numpy(array).to(device) for name, array in canary_observations(net.spec, ids).items()}
    logprobs, _, _ = net.step(observations, net.initial_state(_ENVS).to(device))
    return logprobs.float().cpu().numpy().ravel()
