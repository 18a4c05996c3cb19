"""Steps K environments of one process as one: automatic reset, honest truncation, message hashes, episodic counts.

The sampler knows no policy: it is given actions. Between two steps `observations`, `message_hash` and `message_count` describe
what the policy must act in now. After the end of an episode that is the first observation of the next one, while the `StepResult`
still says how the old one ended and, where it was cut off, what its real last observation was.

Counts follow ONI (arXiv 2410.23022): ``message_count`` is the number of sightings of exactly this message in the running episode
of this environment, this one and the first observation included. Nothing is shared between environments or kept across episodes.
``mask_numbers``: hashes and texts are then those of the message without its numbers (`messages.masked`); counts stay exact.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayrl.agent_types import EnvSpec, EpisodeRecord, Observation, RunningEpisodes, StepResult
from rayrl.envs.messages import NewTexts, masked, message_hash
from rayrl.protocols import AgentEnv
from rayrl.types import IntArray


class VectorSampler:
    """Fulfils `protocols.Sampler`. Not thread-safe; some environments (NetHack) allow one sampler per process only."""

    def __init__(self, env_factory: Callable[[], AgentEnv], num_envs: int, seed: int, *, mask_numbers: bool = False) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: at least one environment is needed")
        self._seed, self._mask = seed, mask_numbers
        self._envs = [env_factory() for _ in range(num_envs)]
        self.spec: EnvSpec = self._envs[0].agent_spec
        self.num_envs = num_envs
        self.message_hash: NDArray[np.uint64] = np.zeros(num_envs, np.uint64)
        """uint64[K], of the present observations. Overwritten by the next step, like `message_count` and `observations`."""
        self.message_count: IntArray = np.zeros(num_envs, np.int32)
        """int32[K], sightings in the running episode, this one included."""
        self._rows = self.spec.zeros(num_envs)
        together = getattr(self._envs[0], "together", None)
        self._look: Callable[[], None] | None = together(self._envs, self._rows) if together else None
        self._counts: list[dict[int, int]] = [{} for _ in range(num_envs)]
        self._texts = NewTexts()
        self._episode = [-1] * num_envs
        self._episode_seed = [0] * num_envs
        self._length = [0] * num_envs
        self._return = [0.0] * num_envs
        self._taken = [array("h") for _ in range(num_envs)]
        """Actions of the running episodes."""

    def reset(self) -> None:
        """Starts a new episode in every environment; running ones are dropped without a record."""
        for k in range(self.num_envs):
            self._start(k)
        if self._look:
            self._look()

    def observations(self) -> dict[str, NDArray[Any]]:
        """The present observations, ``[K, *shape]`` per name. Views: the next step overwrites them."""
        return self._rows

    def step(self, actions: IntArray | Sequence[int]) -> StepResult:
        """Takes one action per environment. Raises `ValueError` for a reward that is not finite."""
        chosen = actions.tolist() if isinstance(actions, np.ndarray) else actions
        rewards, ended, cut = [0.0] * self.num_envs, [False] * self.num_envs, [False] * self.num_envs
        last: dict[int, Observation] = {}
        episodes: list[EpisodeRecord] = []
        for k, env in enumerate(self._envs):
            observation, reward, terminated, truncated, info = env.step(chosen[k])
            rewards[k] = reward
            self._return[k] += reward
            self._length[k] += 1
            self._taken[k].append(chosen[k])
            if not (terminated or truncated):
                self._show(k, observation)
                continue
            if terminated:
                ended[k] = True
            else:
                cut[k] = True
                last[k] = self._copy(k, observation)
            episodes.append(self._record(k, "terminated" if terminated else "truncated", info))
            self._start(k)
        if self._look:
            self._look()
        result = StepResult(np.array(rewards, np.float32), np.array(ended), np.array(cut), last, tuple(episodes))
        if not np.isfinite(result.rewards).all():
            raise ValueError(f"{type(self._envs[0]).__name__} gave a reward that is not finite: {rewards}")
        return result

    def take_texts(self) -> dict[int, bytes]:
        """Messages seen for the first time since the last call, by hash: each distinct text is given once."""
        return self._texts.take()

    def repeat_texts(self) -> None:
        """`take_texts` gives everything again."""
        self._texts.repeat()

    def running(self) -> RunningEpisodes:
        """See `protocols.Sampler.running`."""
        actions = tuple(np.array(taken, np.int16) for taken in self._taken)
        return RunningEpisodes(self._seed, tuple(self._episode), actions, np.zeros((self.num_envs, 0), np.float32))

    def replay(self, episodes: RunningEpisodes) -> None:
        """See `protocols.Sampler.replay`. Raises `ValueError` where they are not as many, or an episode ends on the way."""
        if len(episodes.numbers) != self.num_envs:
            raise ValueError(f"{len(episodes.numbers)} running episodes cannot go on in {self.num_envs} environments")
        self._seed = episodes.seed
        for k, (number, actions) in enumerate(zip(episodes.numbers, episodes.actions, strict=True)):
            self._episode[k] = number - 1
            self._start(k)
            for action in actions.tolist():
                observation, reward, terminated, truncated, _ = self._envs[k].step(action)
                if terminated or truncated:
                    raise ValueError(f"episode {number} of environment {k} ended at step {self._length[k] + 1}, which it had not before")
                self._return[k] += reward
                self._length[k] += 1
                self._taken[k].append(action)
                self._show(k, observation)
        if self._look:
            self._look()

    def frame(self) -> dict[str, NDArray[Any]]:
        """The first environment's screen (``tty_chars`` uint8, ``tty_colors`` int8), where it has one. Buffers."""
        shown = getattr(self._envs[0], "frame", None)
        return dict(zip(("tty_chars", "tty_colors"), shown(), strict=False)) if shown else {}

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _start(self, k: int) -> None:
        """Every episode has a seed of its own, derived from the sampler's seed, the environment's index and the episode's number."""
        self._episode[k] += 1
        seed = np.random.SeedSequence([self._seed, k, self._episode[k]]).generate_state(1, np.uint32)
        self._episode_seed[k] = int(seed[0]) >> 1  # some environments want a signed 32-bit seed
        self._length[k], self._return[k] = 0, 0.0
        self._counts[k].clear()
        self._taken[k] = array("h")
        observation, _ = self._envs[k].reset(seed=self._episode_seed[k])
        self._show(k, observation)

    def _show(self, k: int, observation: Observation) -> None:
        if not self._look:
            for name, rows in self._rows.items():
                rows[k] = observation[name]
        message = self._envs[k].message(observation)
        key = exact = message_hash(message)
        counts = self._counts[k]
        counts[exact] = count = counts.get(exact, 0) + 1
        if self._mask:
            message = masked(message)
            key = message_hash(message)
        if count == 1:
            self._texts.see(key, message)
        self.message_hash[k] = key
        self.message_count[k] = count

    def _copy(self, k: int, observation: Observation) -> Observation:
        if self._look:
            self._look()
            observation = {name: rows[k] for name, rows in self._rows.items()}
        return {name: np.array(observation[name], spec.dtype) for name, spec in self.spec.observations.items()}

    def _record(self, k: int, end: str, info: dict[str, Any]) -> EpisodeRecord:
        sums = {str(name): float(value) for name, value in info.get("episode_sums", {}).items()}
        reason = str(info.get("end_reason", end))
        return EpisodeRecord(k, self._episode[k], self._episode_seed[k], self._return[k], self._length[k], reason, sums)
