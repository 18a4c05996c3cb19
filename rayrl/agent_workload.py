"""What an environment agent is given to do: tickets, one fragment each, and whole episodes as its exam."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rayrl.agent_types import EpisodeRecord, RunningEpisodes
from rayrl.config.schema import Config
from rayrl.evaluation.episodes import EpisodeExam, examine
from rayrl.runtime.contract import Handle
from rayrl.runtime.pool import Pool, gather
from rayrl.types import IntArray, Prompt, PromptTask, SamplingParams

_CANARY = np.array([20241030], dtype=np.int32)


class TicketWorkload:
    """Fulfils `workload.Workload`. A ticket is a prompt without content: what counts is its ordinal."""

    def __init__(self, config: Config) -> None:
        self._config, self.position = config, 0

    @property
    def canary(self) -> IntArray:
        """Seeds the observations of `models.agent_canary`."""
        return _CANARY

    def seek(self, ordinal: int) -> None:
        self.position = ordinal

    def take(self, count: int) -> list[PromptTask]:
        first, self.position = self.position, self.position + count
        return [_ticket(ordinal, 1.0) for ordinal in range(first, first + count)]

    @property
    def has_exam(self) -> bool:
        return True

    def examine(self, step: int, engines: Sequence[Handle], score: Callable[[Any], Any], limit_s: float) -> EpisodeExam:
        """Mean return and the environment's own counts over ``agent.eval_episodes`` episodes, and one to look at."""
        tasks = [_ticket(-1 - i, self._config.evaluation.temperature) for i in range(self._config.agent.eval_episodes)]
        pending = [engine.submit("rollout", tasks[i :: len(engines)], limit_s) for i, engine in enumerate(engines)]
        parts: list[list[EpisodeRecord]] = gather(pending, limit_s + self._config.deadlines.call_s)
        found = examine(step, [episode for part in parts for episode in part])
        frames = self._config.agent.watched_frames
        if not frames:
            return found
        watched = engines[0].submit("watch", frames, self._config.run.seed, limit_s).result(limit_s + self._config.deadlines.call_s)
        return replace(found, watched=watched)

    def under_way(self, engines: Pool) -> dict[str, Any]:
        """Where the episodes of each env worker are."""
        handles, limit = list(engines.handles), self._config.deadlines.call_s
        found = zip(handles, gather([handle.submit("running") for handle in handles], limit), strict=True)
        return {handle.name: episodes.to_json() for handle, episodes in found if episodes is not None}

    def go_on(self, engines: Pool, saved: Mapping[str, Any]) -> None:
        """Each env worker takes up the episodes that a worker of its name was in; others begin anew, as all do with other numbers of
        environments."""
        limit, envs = self._config.deadlines.start_s, self._config.agent.envs_per_worker
        known = [(handle, RunningEpisodes.from_json(saved[handle.name])) for handle in engines.handles if handle.name in saved]
        gather([handle.submit("replay", episodes, limit) for handle, episodes in known if len(episodes.numbers) == envs], limit)


def _ticket(ordinal: int, temperature: float) -> PromptTask:
    return PromptTask(Prompt(ordinal, np.array([ordinal], np.int32)), 1, SamplingParams(temperature=temperature))
