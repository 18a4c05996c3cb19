"""The simulator against runs of this machine: what it tells of a recorded run, and of one with another bound of staleness.

pytest -s -m slow tests/e2e/test_prediction.py     # five minutes, on a machine that has nothing else to do; prints both numbers
"""

from __future__ import annotations

import numpy as np
import pytest

from rayrl import driver
from rayrl.config.loading import load
from rayrl.models import tiny
from rayrl.simulation.calibrate import Recorded, read_run
from rayrl.simulation.prediction import predict
from rayrl.simulation.world import simulate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 30


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """``record(bound)`` trains for `STEPS` steps with real engines, once for each bound."""
    model, found = tiny.save(tmp_path_factory.mktemp("model"), tiny.SMALL), {}

    def train(bound: int) -> Recorded:
        if bound not in found:
            folder = tmp_path_factory.mktemp("runs") / f"bound-{bound}"
            quiet = ["evaluation.enabled=false", "telemetry.wandb=off", "telemetry.report=false", "checkpoint.export=false"]
            recipe = "arithmetic_async" if bound else "arithmetic_grpo"
            overrides = [f"run.dir={folder}", f"run.steps={STEPS}", f"buffer.max_staleness={bound}", f"model.path={model}", *quiet]
            driver.train(load(recipe, overrides))
            found[bound] = folder
        return read_run(found[bound])

    train.folders = found
    return train


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_the_step_time_of_a_recorded_run_is_told_within_15_percent(record, bound):
    run = record(bound)
    told = simulate(run.scenario, 60)
    print(f"\n  bound {bound}: {told.step_s:.2f} s told, {run.step_s:.2f} s measured ({told.step_s / run.step_s - 1:+.1%}); ", end="")
    print(f"staleness {told.staleness_mean:.2f} told, {run.staleness_mean:.2f} measured; learner idle {told.learner_idle:.0%}")
    assert told.step_s == pytest.approx(run.step_s, rel=0.15)
    assert told.staleness_mean == pytest.approx(run.staleness_mean, abs=0.3)


def learner_step_s(run: Recorded) -> float:
    tokens = run.scenario.groups_per_step * np.mean([sum(group) for group in run.scenario.lengths])
    return run.scenario.learn_s + run.scenario.learn_token_s * tokens


def test_what_another_bound_would_do_is_told_within_15_percent(record):
    """From the run with bound 2, of bound 1: engines and learner share the machine as before. How fast the machine itself was during each
    of the two runs is read off the learner, whose work per token is the same in both."""
    measured, before = record(1), record(2)
    pace = learner_step_s(measured) / learner_step_s(before)
    told = pace * predict(measured.config, record.folders[2]).outcome.step_s
    print(f"\n  bound 1 from bound 2: {told:.2f} s told, {measured.step_s:.2f} s measured ({told / measured.step_s - 1:+.1%}); ", end="")
    print(f"the machine took {pace:.2f} of its time")
    assert told == pytest.approx(measured.step_s, rel=0.15)
