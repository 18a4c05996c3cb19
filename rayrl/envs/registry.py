"""Which text environments exist. An environment is built for each episode: ``cls(prompt, **rollout.env_args)``."""

from __future__ import annotations

from collections.abc import Callable

from rayrl import plugins
from rayrl.protocols import TextEnv

ENVS: dict[str, str] = {"calculator": "rayrl.envs.calculator:Calculator"}


def load_env(name: str) -> Callable[..., TextEnv]:
    """The class of ``rollout.env``: a registry name or ``module:Class``. Raises `ConfigError` with the nearest name."""
    return plugins.load(name, ENVS, key="rollout.env")
