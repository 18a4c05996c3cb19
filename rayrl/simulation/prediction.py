"""From a configuration, and a recorded run where there is one, to what is predicted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayrl.config.placement import placement_mode, run_resources
from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.simulation.calibrate import Recorded, read_run
from rayrl.simulation.drawing import picture
from rayrl.simulation.hardware import Gpu, estimate
from rayrl.simulation.scenario import Outcome, Scenario
from rayrl.simulation.sweep import Cell, advice, sweep
from rayrl.simulation.world import simulate

__all__ = ["Prediction", "advice", "over_sizes", "picture", "predict"]


@dataclass(frozen=True)
class Prediction:
    source: str
    """Where the speeds come from."""
    scenario: Scenario
    outcome: Outcome
    replayed: tuple[float, float] | None
    """Of the recorded run: seconds per step as measured, and as the simulation would have predicted them."""

    def to_json(self) -> dict[str, Any]:
        speeds = {k: v for k, v in asdict(self.scenario).items() if k != "lengths"}
        return {"source": self.source, "speeds": speeds, "outcome": asdict(self.outcome), "replayed": self.replayed}


def predict(config: Config, recorded: str | Path | None = None) -> Prediction:
    """Raises `ConfigError` for a CPU run without a recording: nothing on a data sheet says how fast it would be."""
    if recorded is not None:
        run = read_run(recorded)
        scenario = applied(run, config)
        return Prediction(
            f"the run {recorded} ({run.steps} steps)", scenario, simulate(scenario), (run.step_s, simulate(run.scenario).step_s)
        )
    resources = run_resources(config.placement, cores=1, gpus=0)
    if placement_mode(config, resources.gpus) == "cpu":
        raise ConfigError("the speed of a run on CPUs is on no data sheet", "record a short run, and give it with --from RUN_DIR")
    scenario = estimate(config)
    return Prediction(f"a roofline of the {Gpu().name}, with assumed lengths", scenario, simulate(scenario), None)


def applied(run: Recorded, config: Config) -> Scenario:
    """The recorded speeds with the batch, pacing and counts of ``config``."""
    before = run.config
    return run.scenario.changed(
        groups_per_step=config.batch.groups_per_step,
        max_staleness=config.buffer.max_staleness,
        engines=config.rollout.num_engines,
        max_running=config.rollout.max_running,
        learn_token_s=run.scenario.learn_token_s
        * before.learner.ranks
        / config.learner.ranks
        * config.learner.epochs
        / before.learner.epochs,
        lengths=_regrouped(run.scenario.lengths, config.batch.group_size),
    )


def over_sizes(config: Config, scenario: Scenario) -> list[Cell]:
    """The sweep from the layout of ``config``: engines and ranks count as GPUs."""
    learner = config.learner.ranks * max(1.0, config.placement.learner_gpus_per_rank)
    return sweep(scenario, learner, float(config.rollout.tensor_parallel))


def _regrouped(lengths: Sequence[Sequence[int]], size: int) -> Sequence[Sequence[int]]:
    """Groups of another size: lengths of one prompt stay together."""
    if all(len(group) == size for group in lengths):
        return lengths
    rng = np.random.default_rng(0)
    return [rng.choice(group, size).tolist() for group in lengths]
