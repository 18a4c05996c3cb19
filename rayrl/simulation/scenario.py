"""The numbers that the speed of a run follows from, and what a simulation tells of it. Seconds and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scenario:
    groups_per_step: int
    max_staleness: int
    lengths: Sequence[Sequence[int]]
    """Sampled groups: action tokens of each of their samples. Simulated groups are drawn from them."""
    engines: int = 1
    max_running: int = 256
    """Sequences of one engine."""
    iteration_s: float = 0.0
    """One decoding step of an engine, however few sequences run."""
    sequence_s: float = 0.0
    """What each running sequence adds to it."""
    score_s: float = 0.0
    """From the last token of a group to its rewards."""
    learn_s: float = 0.0
    """One learner step, fixed part."""
    learn_token_s: float = 0.0
    """What each action token of the batch adds to it."""
    export_s: float = 0.0
    """The learner hands out its weights; it does nothing else meanwhile."""
    publish_s: float = 0.0
    """From weights handed out to weights proven on all engines."""
    pause_s: float = 0.0
    """The part of it in which engines stand still."""
    driver_s: float = 0.0
    """What else the driver does in a step while nobody waits for it alone: confirming, recording."""
    paces: Sequence[tuple[float, float]] = ()
    """Of each recorded step: how many times longer than usual learner and engines took for the same work. A simulated run takes them in
    this order, over and over: where both have much to do, what one loses in its slow steps it does not get back in its fast ones."""
    failures_per_hour: float = 0.0
    """Of one engine."""
    restart_s: float = 60.0
    """Until a failed engine is back, with the newest weights."""

    def changed(self, **values: object) -> Scenario:
        return replace(self, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Outcome:
    """Means over the steps after the warm-up."""

    step_s: float
    tokens_per_s: float
    """Action tokens trained on."""
    learner_idle: float
    """Share of the time."""
    engine_idle: float
    """Share of the time, all engines together: nothing to generate, or standing still for weights or a restart."""
    staleness_mean: float
    """Trained version minus the version of a group's first token."""
    staleness_max: int
    failures: int
