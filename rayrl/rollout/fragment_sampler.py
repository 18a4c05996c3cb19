"""Fragments from K environments and a policy: T steps at a time, without a buffer and without threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from rayrl.agent_types import EpisodeRecord, Fragment, RunningEpisodes
from rayrl.protocols import Sampler
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.types import VersionSpan


class FragmentSampler:
    """Episodes go on from one fragment to the next; so does the recurrent state."""

    def __init__(self, sampler: Sampler, engine: AgentEngine, steps: int) -> None:
        """Resets the environments. ``steps``: T."""
        self._sampler, self._engine, self._steps = sampler, engine, steps
        self.restart()

    def restart(self) -> None:
        """Drops the running episodes and begins new ones."""
        self._sampler.reset()
        self._state = self._engine.policy.initial_state(self._sampler.num_envs)

    def collect(self, ordinal: int, between: Callable[[], None] = lambda: None) -> Fragment:
        """The next T steps of every environment, as the answer to ticket ``ordinal``. ``between`` is called before each step; it may
        load other weights, which the fragment's spans then say."""
        sampler, steps, envs = self._sampler, self._steps, self._sampler.num_envs
        rows = sampler.spec.empty(steps + 1, envs)
        actions = np.zeros((steps, envs), np.int16)
        logprobs, rewards = np.zeros((steps, envs), np.float32), np.zeros((steps, envs), np.float32)
        terminated, truncated = np.zeros((steps, envs), np.bool_), np.zeros((steps, envs), np.bool_)
        hashes, counts = np.zeros((steps, envs), np.uint64), np.zeros((steps, envs), np.int32)
        finals: list[tuple[int, int, Mapping[str, np.ndarray]]] = []
        episodes: list[EpisodeRecord] = []
        first, present = self._state.numpy().copy(), self._present()
        versions = []
        for t in range(steps):
            between()
            for name, array in sampler.observations().items():
                rows[name][t] = array
            hashes[t], counts[t] = sampler.message_hash, sampler.message_count
            choice = self._engine.act(present, self._state)
            versions.append(self._engine.version)
            actions[t], logprobs[t] = choice.actions, choice.logprobs
            result = sampler.step(choice.actions)
            rewards[t], terminated[t], truncated[t] = result.rewards, result.terminated, result.truncated
            self._state = choice.state
            ended = terminated[t] | truncated[t]
            if ended.any():
                self._state = torch.where(torch.from_numpy(ended).unsqueeze(-1), 0.0, choice.state)
                finals += [(t, k, result.last_observations[k]) for k in np.flatnonzero(truncated[t]).tolist()]
                episodes += result.episodes
        for name, array in sampler.observations().items():
            rows[name][steps] = array
        return Fragment(
            ordinal=ordinal,
            observations=rows,
            state=first,
            actions=actions,
            logprobs=logprobs,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            final_steps=np.array([t for t, _, _ in finals], np.int32),
            final_envs=np.array([k for _, k, _ in finals], np.int32),
            final_observations=self._stacked([o for _, _, o in finals]),
            message_hash=hashes,
            message_count=counts,
            next_hash=sampler.message_hash.copy(),
            next_count=sampler.message_count.copy(),
            version_spans=_spans(versions),
            texts=sampler.take_texts(),
            episodes=tuple(episodes),
        )

    def play(self, episodes: int, *, greedy: bool) -> list[EpisodeRecord]:
        """Whole episodes from fresh starts, then a fresh start for what follows. Each environment plays its share of ``episodes``, so
        that short episodes are not preferred."""
        envs = self._sampler.num_envs
        wanted = [episodes // envs + (k < episodes % envs) for k in range(envs)]
        found: list[EpisodeRecord] = []
        self.restart()
        present = self._present()
        while any(wanted):
            choice = self._engine.act(present, self._state, greedy=greedy)
            result = self._sampler.step(choice.actions)
            ended = torch.from_numpy(result.terminated | result.truncated).unsqueeze(-1)
            self._state = torch.where(ended, 0.0, choice.state)
            for episode in result.episodes:
                if wanted[episode.env]:
                    wanted[episode.env] -= 1
                    found.append(episode)
        self.restart()
        return sorted(found, key=lambda e: (e.env, e.episode))

    def running(self) -> RunningEpisodes:
        """Where environments and policy are."""
        return replace(self._sampler.running(), state=self._state.numpy().copy())

    def replay(self, episodes: RunningEpisodes) -> None:
        """Goes there. Raises `ValueError` where the environments cannot."""
        self._sampler.replay(episodes)
        self._state = torch.from_numpy(episodes.state.copy())

    def repeat_texts(self) -> None:
        """The next fragment brings the texts of all messages seen so far."""
        self._sampler.repeat_texts()

    def close(self) -> None:
        self._sampler.close()

    def _present(self) -> dict[str, torch.Tensor]:
        """Tensors over the sampler's own buffers: each step overwrites them in place."""
        return {name: torch.from_numpy(array) for name, array in self._sampler.observations().items()}

    def _stacked(self, observations: list[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        arrays = self._sampler.spec.empty(len(observations))
        for name, array in arrays.items():
            for row, observation in zip(array, observations, strict=True):
                row[...] = observation[name]
        return arrays


def _spans(versions: Sequence[int]) -> tuple[VersionSpan, ...]:
    """One span for each run of equal versions."""
    found, start = [], 0
    for version, run in groupby(versions):
        length = len(list(run))
        found.append(VersionSpan(version, start, start + length))
        start += length
    return tuple(found)
