"""What the driver hands out and what it examines, for each kind of policy: the only part of a run's schedule that differs.

A workload is an endless, resumable stream of tasks and an exam under the published weights. A language model is given prompts and
examined on held-out ones; the workload of an environment agent is in `agent_workload.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rayrl.config.schema import Config
from rayrl.config.sizes import model_size
from rayrl.errors import ConfigError
from rayrl.evaluation import held_out
from rayrl.protocols import PromptSource
from rayrl.runtime.contract import Handle
from rayrl.runtime.pool import Pool, gather
from rayrl.types import IntArray, Prompt, PromptTask, SamplingParams, Trajectory

_CANARY_TOKENS = 64


class Exam(Protocol):
    """What an evaluation found."""

    step: int

    def metrics(self) -> dict[str, float]: ...

    def to_json(self) -> dict[str, Any]: ...


class Workload(Protocol):
    @property
    def canary(self) -> IntArray:
        """int32[P]: what learner and engines compute after every weight update, to be compared."""

    @property
    def position(self) -> int:
        """Ordinal of the next task."""

    def seek(self, ordinal: int) -> None: ...

    def take(self, count: int) -> list[PromptTask]: ...

    @property
    def has_exam(self) -> bool: ...

    def examine(self, step: int, engines: Sequence[Handle], score: Callable[[Any], Any], limit_s: float) -> Exam:
        """Generates on all ``engines`` and waits at most ``limit_s`` seconds. Raises `RoleFailed` when one dies meanwhile."""

    def under_way(self, engines: Pool) -> dict[str, Any]:
        """What engines that have nothing to do still carry over to their next task; a synchronous run is continued exactly only with it."""

    def go_on(self, engines: Pool, saved: Mapping[str, Any]) -> None:
        """They take up what `under_way` told."""


class PromptWorkload:
    """Prompts for a language model."""

    def __init__(self, config: Config) -> None:
        """Raises `DataError` or `ModelError` for prompts that cannot be read."""
        self._config = config
        self._prompts, self._held_out = load_prompts(config)
        self._canary = (self._held_out or self._prompts.take(1))[0].token_ids[:_CANARY_TOKENS]
        self._prompts.seek(0)

    @property
    def canary(self) -> IntArray:
        return self._canary

    @property
    def position(self) -> int:
        return self._prompts.position

    def seek(self, ordinal: int) -> None:
        self._prompts.seek(ordinal)

    def take(self, count: int) -> list[PromptTask]:
        s, n, limits = self._config.rollout.sampling, self._config.batch.group_size, self._length_limits
        sampling = SamplingParams(s.max_tokens, s.temperature, s.top_p, s.top_k, s.min_p, tuple(s.stop), ignore_eos=s.ignore_eos)
        prompts = self._prompts.take(count)
        return [PromptTask(p, n, sampling, max_tokens=tuple(limits[p.ordinal % len(limits)]) if limits else None) for p in prompts]

    @cached_property
    def _length_limits(self) -> list[list[int]]:
        """``rollout.length_limits``: one line of n token limits per prompt ordinal, in turn."""
        path = self._config.rollout.length_limits
        rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()] if path else []
        if any(len(row) != self._config.batch.group_size for row in rows):
            raise ConfigError(
                f"rollout.length_limits: a line of {path} has another number of limits than batch.group_size", "write one limit per sample"
            )
        return rows

    @property
    def has_exam(self) -> bool:
        return bool(self._held_out)

    def examine(self, step: int, engines: Sequence[Handle], score: Callable[[Any], Any], limit_s: float) -> held_out.Evaluation:
        """Accuracy on held-out prompts."""
        tasks = held_out.tasks(self._config, self._held_out)
        pending = [engine.submit("rollout", tasks[i :: len(engines)], limit_s) for i, engine in enumerate(engines)]
        parts = gather(pending, limit_s + self._config.deadlines.call_s)
        trajectories: list[Trajectory] = sorted((t for part in parts for t in part), key=lambda t: (-t.ordinal, t.sample))
        return held_out.evaluate(self._config, step, trajectories, score)

    def under_way(self, engines: Pool) -> dict[str, Any]:
        """Nothing: a completion depends on its prompt alone."""
        return {}

    def go_on(self, engines: Pool, saved: Mapping[str, Any]) -> None:
        return None


def load_prompts(config: Config) -> tuple[PromptSource, list[Prompt]]:
    """The training stream and the held-out prompts. Raises `DataError` or `ModelError` before any role is started."""
    from rayrl.data.prompts import load_prompts as load
    from rayrl.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(config.model)
    size = model_size(config.model.path)
    return load(config, tokenizer, vocab_size=size.vocab if size else None)
