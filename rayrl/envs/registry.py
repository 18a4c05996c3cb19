"""Which environments exist, of two kinds that share nothing but the word.

`TEXT_ENVS` talk with a language model: one is built for each episode, ``cls(prompt, **rollout.env_args)``. `AGENT_ENVS` are played by
an environment agent: Gymnasium environments with a descriptor (`protocols.AgentEnv`); any other Gymnasium class is adapted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from rayrl import plugins
from rayrl.errors import ConfigError, EnvironmentMissing
from rayrl.protocols import AgentEnv, TextEnv

TEXT_ENVS: dict[str, str] = {"calculator": "rayrl.envs.calculator:Calculator"}

AGENT_ENVS: dict[str, str] = {
    "chain": "rayrl.envs.chain:Chain",
    "nethack_score": "rayrl.envs.nethack.tasks:Score",
    "nethack_reward_free": "rayrl.envs.nethack.tasks:RewardFree",
    "nethack_staircase_lvl2": "rayrl.envs.nethack.tasks:StaircaseLvl2",
    "nethack_staircase_lvl3": "rayrl.envs.nethack.tasks:StaircaseLvl3",
    "nethack_staircase_lvl4": "rayrl.envs.nethack.tasks:StaircaseLvl4",
    "nethack_oracle": "rayrl.envs.nethack.tasks:Oracle",
    "nethack_oracle_sober": "rayrl.envs.nethack.tasks:OracleSober",
}


def load_env(name: str) -> Callable[..., TextEnv]:
    """The class of ``rollout.env``: a registry name or ``module:Class``. Raises `ConfigError` with the nearest name."""
    return plugins.load(name, TEXT_ENVS, key="rollout.env")


def load_agent_env(name: str) -> Callable[..., Any]:
    """The class of ``agent.env``: a registry name or ``module:Class``.

    Raises `ConfigError` with the nearest name, `EnvironmentMissing` where the package behind the environment is not installed.
    """
    if name in TEXT_ENVS and name not in AGENT_ENVS:
        raise ConfigError(f"agent.env: {name!r} is an environment for language models", f"set rollout.env={name} and leave agent.env null.")
    lacking = _lacking(name)
    if lacking:
        raise EnvironmentMissing(f"agent.env: {name!r} needs the package {lacking!r}", f"pip install 'rayrl[{_EXTRAS[lacking]}]'")
    return plugins.load(name, AGENT_ENVS, key="agent.env")


def agent_env_factory(
    name: str, args: Mapping[str, Any] | None = None, message_key: str | None = None, *, watched: bool = False
) -> Callable[[], AgentEnv]:
    """Builds the environment ``name`` with keyword arguments ``args``, again at every call; ``watched``: with its terminal, if any.

    ``message_key`` says where a Gymnasium environment without a descriptor has its text: the name of an entry of its observation or
    of its info; None takes the only text space of the observation, if there is one. Raises `ConfigError` when the arguments do not
    fit or the spaces cannot be used.
    """
    cls, kwargs = load_agent_env(name), dict(args or {})
    kwargs |= {"terminal": True} if watched and getattr(cls, "has_terminal", False) else {}

    def make() -> AgentEnv:
        try:
            env = cls(**kwargs)
        except (TypeError, ValueError) as e:
            raise ConfigError(
                f"agent.env_args: {name!r} cannot be built with {kwargs}: {e}", "see the arguments of its constructor."
            ) from e
        if hasattr(env, "agent_spec"):
            return env
        from rayrl.envs.adapter import GymnasiumAdapter

        return GymnasiumAdapter(env, message_key)

    return make


_EXTRAS = {"gymnasium": "train", "nle": "nethack"}


def _lacking(name: str) -> str | None:
    """The package that a built-in environment needs and that is not installed."""
    needed = ["gymnasium", "nle"] if name.startswith("nethack") else ["gymnasium"]
    return next((p for p in needed if name in AGENT_ENVS and importlib.util.find_spec(p) is None), None)
