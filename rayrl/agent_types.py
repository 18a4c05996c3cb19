"""The vocabulary of environment agents: what an environment shows, what one step of many environments gives, what an episode was.

`types.py` holds what agents share with language models. Legend of shapes: ``K`` environments of one worker, ``T`` steps, ``M``
truncated episodes, ``H`` width of the recurrent state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayrl.types import BoolArray, FloatArray, IntArray, VersionSpan

Observation = Mapping[str, NDArray[Any]]
"""One observation, or a stack of them: name -> array whose last axes are the `ArraySpec`'s shape."""


class ArrayKind(StrEnum):
    """How a network reads an array."""

    CATEGORIES = "categories"
    """Small integers without order (map symbols, colours): embedded."""
    NUMBERS = "numbers"
    """Quantities: scaled and clipped."""
    TEXT = "text"
    """uint8 characters, zero-padded on the right."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of an observation, in the compact dtype in which it travels and is stored."""

    shape: tuple[int, ...]
    dtype: str
    """numpy name, e.g. ``uint8``."""
    kind: ArrayKind
    categories: int = 0
    """Values are 0 … categories-1. Only for CATEGORIES and TEXT."""
    scale: tuple[float, ...] | None = None
    """NUMBERS only: a network reads ``clip(x * scale, -5, 5)``. One factor for all, or one per element of the flattened array
    (0 hides an element). None reads the numbers as they are."""

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def __post_init__(self) -> None:
        if self.scale is not None and len(self.scale) not in (1, int(np.prod(self.shape, dtype=np.int64))):
            raise ValueError(f"{len(self.scale)} scales for an array of shape {self.shape}")
        if self.kind is not ArrayKind.NUMBERS and self.categories < 1:
            raise ValueError(f"{self.kind} of shape {self.shape}: say how many categories there are")


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """What an environment shows and how many actions it takes: all that a network must know to be built."""

    observations: Mapping[str, ArraySpec]
    num_actions: int
    has_messages: bool = True
    """False for an environment without text: no reward can be made from its messages."""

    @property
    def nbytes(self) -> int:
        """Bytes of one observation."""
        return sum(spec.nbytes for spec in self.observations.values())

    def zeros(self, *leading: int) -> dict[str, NDArray[Any]]:
        """Zeroed arrays of shape ``[*leading, *spec.shape]``, one per name."""
        return {name: np.zeros((*leading, *spec.shape), spec.dtype) for name, spec in self.observations.items()}

    def empty(self, *leading: int) -> dict[str, NDArray[Any]]:
        """The same, with whatever was there: for whoever writes all of it."""
        return {name: np.empty((*leading, *spec.shape), spec.dtype) for name, spec in self.observations.items()}


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One finished episode of one environment."""

    env: int
    """Index of the environment in its worker, 0 … K-1."""
    episode: int
    """How many episodes this environment had finished before."""
    seed: int
    """Seed of this episode: with the same actions it runs again."""
    total_reward: float
    """Undiscounted sum of the environment's own rewards."""
    length: int
    """Steps."""
    end: str
    """Why it ended, in the environment's words where it says (``info["end_reason"]``), else ``terminated`` or ``truncated``."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """What else the environment counted (``info["episode_sums"]`` of the last step), e.g. the deepest level."""


@dataclass(frozen=True, slots=True)
class RunningEpisodes:
    """Where K environments are in their episodes. Whoever takes the same actions from the same seeds is at the same place again."""

    seed: int
    """Of the sampler: those of the episodes follow from it."""
    numbers: tuple[int, ...]
    """K: the number of each running episode."""
    actions: tuple[NDArray[np.int16], ...]
    """K: what was done in it so far, int16[steps]."""
    state: FloatArray
    """float32[K, H]: recurrent state of the policy."""

    def to_json(self) -> dict[str, Any]:
        taken, state = [a.tolist() for a in self.actions], self.state.astype(np.float64).tolist()
        return {"seed": self.seed, "numbers": list(self.numbers), "actions": taken, "state": state}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> RunningEpisodes:
        actions = tuple(np.array(a, np.int16) for a in saved["actions"])
        return cls(saved["seed"], tuple(saved["numbers"]), actions, np.array(saved["state"], np.float32))


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of K environments gave. The arrays belong to the reader."""

    rewards: FloatArray
    """float32[K]: the environment's own reward for the actions just taken."""
    terminated: BoolArray
    """bool[K]: the episode ended by itself; nothing comes after it."""
    truncated: BoolArray
    """bool[K]: the episode was cut off (time limit); its value goes on. Never True together with ``terminated``."""
    last_observations: Mapping[int, Observation]
    """For each truncated environment the real last observation, before the automatic reset."""
    episodes: tuple[EpisodeRecord, ...]


@dataclass(frozen=True, slots=True)
class Fragment:
    """T steps of K environments side by side: the environment agent's counterpart of a `Trajectory`.

    Row t holds the observation that the policy acted in, its action, and what the environment answered. An environment that
    ended at row t (terminated or truncated) shows the first observation of its next episode in row t+1, with a fresh recurrent
    state. Arrays may be read-only views of shared memory.
    """

    ordinal: int
    """The ticket that it answers: trained at most once."""
    observations: Observation
    """name -> [T+1, K, ...] in the environment's compact dtypes; row T is what the value function is bootstrapped from."""
    state: FloatArray
    """float32[K, H]: recurrent state before row 0."""
    actions: NDArray[np.int16]
    """int16[T, K]."""
    logprobs: FloatArray
    """float32[T, K]: log-probability of each action under the policy that chose it."""
    rewards: FloatArray
    """float32[T, K]: extrinsic, neither scaled nor clipped."""
    terminated: BoolArray
    """bool[T, K]: the task ended the episode; nothing is worth anything after it."""
    truncated: BoolArray
    """bool[T, K]: a limit ended the episode; the value of its real last observation counts."""
    final_steps: IntArray
    """int32[M]: row of each truncation, ascending."""
    final_envs: IntArray
    """int32[M]: environment of each truncation."""
    final_observations: Observation
    """name -> [M, ...]: the real last observations, which `observations` no longer show."""
    message_hash: NDArray[np.uint64]
    """uint64[T, K]: of the text in the observation acted in, as it is judged (``agent.mask_numbers``); 0 where there is none."""
    message_count: IntArray
    """int32[T, K]: sightings of exactly the text shown in the running episode, this one included (the first is 1)."""
    next_hash: NDArray[np.uint64]
    """uint64[K]: `message_hash` of row T of the observations, whose action is the next fragment's."""
    next_count: IntArray
    """int32[K]: `message_count` there."""
    version_spans: tuple[VersionSpan, ...]
    """In steps; cover ``[0, T)``."""
    texts: Mapping[int, bytes] = field(default_factory=dict)
    """hash -> text, for every hash that this worker has not delivered before."""
    episodes: tuple[EpisodeRecord, ...] = ()
    """Episodes that ended within the fragment, by (step, env)."""

    @property
    def steps(self) -> int:
        """T."""
        return int(self.actions.shape[0])

    @property
    def envs(self) -> int:
        """K."""
        return int(self.actions.shape[1])

    @property
    def frames(self) -> int:
        """T x K: transitions trained on."""
        return int(self.actions.size)

    @property
    def oldest_version(self) -> int:
        """The version that staleness counts from."""
        return min(span.version for span in self.version_spans)


@dataclass(frozen=True, slots=True)
class RatingModel:
    """A network that rates messages (`models.char_cnn.CharCnn`), as one process gives it to another."""

    version: int
    """Grows whenever weights change; 0 has learned nothing yet."""
    weights: Mapping[str, NDArray[Any]]
    """Name -> array."""
