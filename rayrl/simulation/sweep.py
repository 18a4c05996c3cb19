"""From one machine to many: throughput against staleness bound and share of engines, over cluster sizes, and the advice in it.

The batch grows with the cluster (weak scaling). Of a large cluster a slice is simulated: `_SLICE` engines with their part of the
batch and of the learner; what a slice cannot show is the slowest of all groups of the whole, which a synchronous step waits for,
so that large synchronous runs are somewhat worse than told here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayrl.simulation.scenario import Outcome, Scenario
from rayrl.simulation.world import simulate

SIZES = (8, 32, 128, 512, 1024, 4096)
BOUNDS = (0, 1, 2, 4, 8)
SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Of the GPUs, for engines."""
_SLICE = 4
_GOOD_ENOUGH = 0.95


@dataclass(frozen=True)
class Cell:
    gpus: int
    bound: int
    """max_staleness."""
    share: float
    """Of the GPUs that generate."""
    outcome: Outcome

    @property
    def per_gpu(self) -> float:
        """Action tokens trained on per second and GPU."""
        return self.outcome.tokens_per_s / self.gpus


def sweep(
    base: Scenario,
    learner_gpus: float,
    engine_gpus: float = 1.0,
    *,
    sizes: Sequence[int] = SIZES,
    bounds: Sequence[int] = BOUNDS,
    shares: Sequence[float] = SHARES,
    steps: int = 12,
) -> list[Cell]:
    """``base`` runs on ``base.engines`` × ``engine_gpus`` + ``learner_gpus`` GPUs; its batch is scaled from there."""
    return [
        Cell(gpus, bound, share, _simulate(base, gpus, bound, share, learner_gpus, engine_gpus, steps))
        for gpus in sizes
        for share in shares
        for bound in bounds
        if gpus * share >= engine_gpus and gpus * (1 - share) >= 1
    ]


def _simulate(base: Scenario, gpus: int, bound: int, share: float, learner_gpus: float, engine_gpus: float, steps: int) -> Outcome:
    engines = max(1, int(gpus * share / engine_gpus))
    learners = gpus - engines * engine_gpus
    groups = base.groups_per_step * gpus / (base.engines * engine_gpus + learner_gpus)
    simulated = min(engines, _SLICE)
    part = simulated / engines
    in_slice = max(1, round(groups * part))
    depth = math.log2(engines / base.engines) if engines > base.engines else 0.0
    scenario = base.changed(
        groups_per_step=in_slice,
        max_staleness=bound,
        engines=simulated,
        # the whole batch over all ranks, told for the tokens of the slice
        learn_token_s=base.learn_token_s * learner_gpus / learners * (groups / in_slice),
        publish_s=base.publish_s + 0.05 * depth,
    )
    outcome = simulate(scenario, bound + 2 + steps, warm_up=bound + 2)  # until the pipeline is full nothing counts
    return Outcome(**{**vars(outcome), "tokens_per_s": outcome.tokens_per_s * groups / in_slice})


def best(cells: Sequence[Cell], gpus: int, bound: int) -> Cell:
    """The share of engines that gives most."""
    return max((c for c in cells if c.gpus == gpus and c.bound == bound), key=lambda c: c.per_gpu)


def advice(cells: Sequence[Cell]) -> Iterator[str]:
    """What follows, per cluster size that changes it, in words."""
    said = None
    for gpus in sorted({c.gpus for c in cells}):
        bounds = sorted({c.bound for c in cells if c.gpus == gpus})
        top = max((best(cells, gpus, b) for b in bounds), key=lambda c: c.per_gpu)
        enough = next(c for b in bounds if (c := best(cells, gpus, b)).per_gpu >= _GOOD_ENOUGH * top.per_gpu)
        if (enough.bound, enough.share) == said:
            continue
        said = (enough.bound, enough.share)
        gain = enough.per_gpu / best(cells, gpus, bounds[0]).per_gpu
        ratio = f"{enough.share:.0%} of the GPUs for engines"
        yield (
            f"from {gpus} GPUs on: buffer.max_staleness={enough.bound}, {ratio}: {gain:.2f} times the throughput of the best "
            f"synchronous layout; learner idle {enough.outcome.learner_idle:.0%}, engines idle {enough.outcome.engine_idle:.0%}"
        )
