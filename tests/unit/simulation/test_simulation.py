"""The simulated run against what can be worked out by hand, against queueing theory's bounds, and against the real driver's promises."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.simulation.drawing import picture
from rayrl.simulation.scenario import Scenario
from rayrl.simulation.sweep import advice, best, sweep
from rayrl.simulation.world import simulate

EVEN = [[10, 10]]
BASE = Scenario(groups_per_step=4, max_staleness=0, lengths=EVEN, engines=1, max_running=8, iteration_s=0.1, sequence_s=0.01)
RNG = np.random.default_rng(0)
UNEVEN = [np.minimum(200, RNG.lognormal(3, 0.8, 4).astype(int) + 1).tolist() for _ in range(100)]
MIXED = Scenario(
    groups_per_step=8,
    max_staleness=0,
    lengths=UNEVEN,
    engines=2,
    max_running=16,
    iteration_s=0.02,
    sequence_s=0.001,
    score_s=0.1,
    learn_s=0.3,
    learn_token_s=0.0005,
    export_s=0.05,
    publish_s=0.1,
    pause_s=0.05,
    driver_s=0.02,
)


def test_a_synchronous_step_is_the_sum_of_its_parts():
    scenario = BASE.changed(score_s=0.3, learn_s=0.5, learn_token_s=0.001, export_s=0.07, publish_s=0.2, pause_s=0.1, driver_s=0.04)
    outcome = simulate(scenario, 10, warm_up=2)
    generate = 10 * (0.1 + 8 * 0.01)  # ten decoding steps of eight sequences
    assert outcome.step_s == pytest.approx(generate + 0.3 + 0.5 + 80 * 0.001 + 0.07 + 0.2 + 0.04)
    assert outcome.tokens_per_s == pytest.approx(80 / outcome.step_s)
    assert outcome.engine_idle == pytest.approx(1 - generate / outcome.step_s)
    assert outcome.learner_idle == pytest.approx(1 - 0.65 / outcome.step_s)
    assert (outcome.staleness_mean, outcome.staleness_max) == (0.0, 0)


def test_waves_and_uneven_lengths_are_decoded_as_a_continuous_batch():
    outcome = simulate(BASE.changed(max_running=4, groups_per_step=2, lengths=[[4, 10]], learn_s=1.0), 4, warm_up=1)
    # two groups together: 4 steps of four sequences, then 6 of two
    assert outcome.step_s == pytest.approx(4 * (0.1 + 0.04) + 6 * (0.1 + 0.02) + 1.0)
    waves = simulate(BASE.changed(max_running=4, learn_s=1.0), 4, warm_up=1)
    assert waves.step_s == pytest.approx(2 * 10 * (0.1 + 0.04) + 1.0)


@pytest.mark.parametrize("bound", [1, 2, 4])
def test_an_asynchronous_run_is_bound_by_its_slower_side_and_never_staler_than_its_bound(bound):
    for learn_s in (0.05, 10.0):
        outcome = simulate(BASE.changed(max_staleness=bound, learn_s=learn_s), 60, warm_up=15)
        generate = 10 * (0.1 + 8 * 0.01)
        assert outcome.step_s == pytest.approx(max(generate, learn_s), rel=0.06)
        assert outcome.staleness_max <= bound


@pytest.mark.parametrize("bound", [0, 1, 2, 5])
def test_uneven_lengths_failures_and_pauses_keep_the_bound_and_lose_no_group(bound):
    outcome = simulate(MIXED.changed(max_staleness=bound, failures_per_hour=120.0, restart_s=2.0), 60)
    assert outcome.failures > 0 and outcome.staleness_max <= bound
    calm = simulate(MIXED.changed(max_staleness=bound), 60)
    assert calm.failures == 0 and calm.tokens_per_s > outcome.tokens_per_s


def test_overlap_helps_and_more_engines_help_until_the_learner_is_the_bound():
    times = [simulate(MIXED.changed(max_staleness=k), 60, warm_up=15).step_s for k in (0, 1, 4)]
    assert times[0] > times[1] > 0.95 * times[2]
    many = simulate(MIXED.changed(max_staleness=16, engines=32), 80, warm_up=30)
    assert many.learner_idle < 0.05 < simulate(MIXED.changed(max_staleness=1, engines=32), 80, warm_up=30).learner_idle  # the longest group


def test_steps_that_are_slow_on_one_side_only_cost_an_asynchronous_run_time_and_a_synchronous_one_none():
    """Engine and learner take two seconds each on average; when the paces of a step differ, one waits for the other."""
    even = BASE.changed(groups_per_step=2, iteration_s=0.2, sequence_s=0.0, learn_s=2.0)
    apart = even.changed(paces=[(0.5, 1.5), (0.5, 1.5), (1.5, 0.5), (1.5, 0.5)])
    together = even.changed(paces=[(0.5, 0.5), (0.5, 0.5), (1.5, 1.5), (1.5, 1.5)])
    mean = lambda scenario, bound: simulate(scenario.changed(max_staleness=bound), 88, warm_up=8).step_s
    assert mean(even, 0) == pytest.approx(4.0) == mean(together, 0) == mean(apart, 0)
    assert mean(even, 1) == pytest.approx(2.0, rel=0.02) == mean(together, 1)
    assert 2.4 < mean(apart, 1) < 3.2 and mean(apart, 4) < mean(apart, 1)


def test_one_seed_gives_one_outcome():
    assert simulate(MIXED, 20, seed=3) == simulate(MIXED, 20, seed=3)
    assert simulate(MIXED, 20, seed=3) != simulate(MIXED, 20, seed=4)


def test_weak_scaling_keeps_the_throughput_of_a_gpu_and_the_advice_names_what_is_best():
    cells = sweep(MIXED, 2.0, sizes=(4, 16, 256), bounds=(0, 2), shares=(0.5, 0.75), steps=10)
    assert len(cells) == 12
    for bound in (0, 2):
        small, large = best(cells, 16, bound), best(cells, 256, bound)
        assert large.per_gpu == pytest.approx(small.per_gpu, rel=0.25)
    assert best(cells, 16, 2).per_gpu > best(cells, 16, 0).per_gpu
    lines = list(advice(cells))
    assert lines and "buffer.max_staleness=2" in lines[0]
    svg = picture(cells, "title")
    assert svg.startswith("<svg") and svg.count("<polyline") == 4 and "staleness 2" in svg
