"""One episode of an environment agent to look at: played by itself, in an environment of its own, outside of what is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from rayrl.agent_types import Fragment
from rayrl.protocols import Sampler
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.fragment_sampler import FragmentSampler


class Watchable(Sampler, Protocol):
    def frame(self) -> Mapping[str, np.ndarray]:
        """The screen of the first environment, as buffers that the next step overwrites; empty where it has none."""


def watch(sampler: Watchable, engine: AgentEngine, frames: int, seed: int) -> Fragment:
    """At most ``frames`` frames of one environment's first episode under the present weights; closes ``sampler``.

    Screens are observations of the fragment like any other (``tty_chars``, ``tty_colors``). The engine's own random numbers do not move.
    """
    screens: list[dict[str, np.ndarray]] = []
    look = lambda: screens.append({name: array.copy() for name, array in sampler.frame().items()})
    try:
        with engine.drawing_from(seed):
            fragment = FragmentSampler(sampler, engine, frames).collect(0, between=look)
        look()
    finally:
        sampler.close()
    shown = {name: np.stack([screen[name] for screen in screens])[:, None] for name in screens[0]}
    ends = np.flatnonzero(fragment.terminated[:, 0] | fragment.truncated[:, 0])
    return _first(replace(fragment, observations={**fragment.observations, **shown}), int(ends[0]) + 1 if len(ends) else frames)


def _first(fragment: Fragment, steps: int) -> Fragment:
    """The first ``steps`` steps; what came after the end of the episode belongs to another one."""
    timed = ("actions", "logprobs", "rewards", "terminated", "truncated", "message_hash", "message_count")
    kept, cut = fragment.final_steps < steps, steps < fragment.steps
    return replace(
        fragment,
        **{name: getattr(fragment, name)[:steps] for name in timed},
        next_hash=fragment.message_hash[steps] if cut else fragment.next_hash,
        next_count=fragment.message_count[steps] if cut else fragment.next_count,
        observations={name: array[: steps + 1] for name, array in fragment.observations.items()},
        final_steps=fragment.final_steps[kept],
        final_envs=fragment.final_envs[kept],
        final_observations={name: array[kept] for name, array in fragment.final_observations.items()},
        version_spans=tuple(span._replace(end=min(span.end, steps)) for span in fragment.version_spans if span.start < steps),
    )


MakeWatched = Callable[[int], Watchable]
"""Builds a sampler of one environment with a screen from a seed."""
