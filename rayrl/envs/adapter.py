"""Any Gymnasium environment that puts text into its observation or its info, as a `protocols.AgentEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rayrl.agent_types import ArrayKind, ArraySpec, EnvSpec, Observation
from rayrl.errors import ConfigError

_LONGEST_TEXT = 256
"""Characters of a text that are shown, hashed and judged; the rest is cut off."""


class GymnasiumAdapter:
    """Translates spaces into an `EnvSpec` and observations into its compact arrays.

    Text in the info becomes the observation ``message``, because the agent is rewarded for it and must be able to see it.
    """

    def __init__(self, env: gym.Env[Any, Any], message_key: str | None = None) -> None:
        name = type(env).__name__
        if not isinstance(env.action_space, spaces.Discrete):
            raise ConfigError(f"agent.env: {name} has the action space {env.action_space}", "only Discrete action spaces can be played.")
        self._env, self._first_action = env, int(env.action_space.start)
        space = env.observation_space
        self._nested = isinstance(space, spaces.Dict)
        self._spaces = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
        specs = {key: _spec(f"{name}.{key}", space) for key, space in self._spaces.items()}
        self._message, self._in_info = _message_key(name, specs, message_key)
        if self._in_info:
            specs["message"] = _text(_LONGEST_TEXT)
        self.agent_spec = EnvSpec(specs, int(env.action_space.n), has_messages=self._message is not None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        observation, info = self._env.reset(seed=seed, options=options)
        return self._compact(observation, info), info

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(action + self._first_action)
        return self._compact(observation, info), float(reward), terminated, truncated, info

    def message(self, observation: Observation) -> bytes:
        if self._message is None:
            return b""
        return bytes(observation["message" if self._in_info else self._message]).rstrip(b"\0")

    def close(self) -> None:
        self._env.close()

    def _compact(self, observation: Any, info: dict[str, Any]) -> Observation:
        entries = observation if self._nested else {"observation": observation}
        arrays = {key: _array(entries[key], space, self.agent_spec.observations[key]) for key, space in self._spaces.items()}
        if self._in_info and self._message:
            arrays["message"] = _encoded(info.get(self._message, ""), _LONGEST_TEXT)
        return arrays


def _spec(name: str, space: spaces.Space[Any]) -> ArraySpec:
    match space:
        case spaces.Text():
            return _text(min(space.max_length, _LONGEST_TEXT))
        case spaces.Discrete():
            return ArraySpec((1,), _smallest(int(space.n)), ArrayKind.CATEGORIES, int(space.n))
        case spaces.MultiDiscrete():
            largest = int(space.nvec.max())
            return ArraySpec(space.nvec.shape, _smallest(largest), ArrayKind.CATEGORIES, largest)
        case spaces.MultiBinary():
            return ArraySpec(space.shape, "uint8", ArrayKind.NUMBERS)
        case spaces.Box():
            wide = np.dtype(space.dtype).name
            narrow = {"float64": "float32", "int64": "int32"}.get(wide, wide)
            pixels = narrow == "uint8" and int(space.high.max()) == 255
            return ArraySpec(space.shape, narrow, ArrayKind.NUMBERS, scale=(1 / 255,) if pixels else None)
    raise ConfigError(
        f"agent.env: {name} is a {type(space).__name__} space",
        "observations may be Box, Discrete, MultiDiscrete, MultiBinary and Text, alone or in one Dict; wrap the environment.",
    )


def _message_key(name: str, specs: dict[str, ArraySpec], wanted: str | None) -> tuple[str | None, bool]:
    """The entry that holds the text, and whether it is one of the info."""
    texts = [key for key, spec in specs.items() if spec.kind is ArrayKind.TEXT]
    if wanted is None:
        if len(texts) > 1:
            raise ConfigError(f"agent.env: {name} shows several texts: {', '.join(texts)}", "say which in agent.message_key.")
        return (texts[0], False) if texts else (None, False)
    if wanted in specs and wanted not in texts:
        raise ConfigError(f"agent.message_key: {wanted!r} of {name} is no text", f"texts are: {', '.join(texts) or 'none'}.")
    return wanted, wanted not in specs


def _text(width: int) -> ArraySpec:
    return ArraySpec((width,), "uint8", ArrayKind.TEXT, 256)


def _smallest(categories: int) -> str:
    return "uint8" if categories <= 2**8 else "int16" if categories <= 2**15 else "int32"


def _array(value: Any, space: spaces.Space[Any], spec: ArraySpec) -> NDArray[Any]:
    if isinstance(space, spaces.Text):
        return _encoded(value, spec.shape[0])
    first = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
    return (np.asarray(value) - first).astype(spec.dtype).reshape(spec.shape)


def _encoded(text: str | bytes, width: int) -> NDArray[np.uint8]:
    """uint8[width]: UTF-8, zero-padded, cut at a character's border."""
    data = text if isinstance(text, bytes) else str(text).encode()
    if len(data) > width:
        data = data[:width].decode(errors="ignore").encode()
    return np.frombuffer(data.ljust(width, b"\0"), np.uint8)
