"""NetHackScore for frameworks that keep what an environment returned: rayrl's environment, with observations copied."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rayrl.envs.nethack.tasks import Score
from rayrl.envs.nethack.view import OBSERVATIONS

SCALES = OBSERVATIONS["stats"].scale


class Game(Score):
    def __init__(self, config: Any = None) -> None:
        """``config`` is what RLlib passes; nothing is read from it."""
        super().__init__()
        self.render_mode = None
        self.observation_space = spaces.Dict({name: _space(name) for name in OBSERVATIONS})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = super().reset(seed=seed)
        return {name: array.copy() for name, array in observation.items()}, info

    def step(self, action: int):
        observation, reward, terminated, truncated, _ = super().step(int(action))
        return {name: array.copy() for name, array in observation.items()}, max(-10.0, min(10.0, reward)), terminated, truncated, {}


def _space(name: str) -> spaces.Box:
    spec = OBSERVATIONS[name]
    low, high = (-(2**31), 2**31 - 1) if spec.dtype == "int32" else (0, 255)
    return spaces.Box(low, high, spec.shape, np.dtype(spec.dtype).type)
