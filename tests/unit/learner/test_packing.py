"""Micro-batch plans: nothing lost, nothing over budget, the same on every rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rayrl.data import packing


def cases(count: int = 60):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(1, 200, rng.integers(0, 40)).tolist(), int(rng.integers(1, 600))


@pytest.mark.parametrize("packed", [False, True])
def test_every_sequence_runs_exactly_once(packed):
    for lengths, budget in cases():
        batches = packing.plan(lengths, budget, packed=packed)
        assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
        assert all(batches)


def test_padded_tokens_stay_within_the_budget():
    for lengths, budget in cases():
        for rows in packing.plan_padded(lengths, budget):
            assert len(rows) == 1 or len(rows) * max(lengths[k] for k in rows) <= budget


def test_packed_tokens_stay_within_the_budget():
    for lengths, budget in cases():
        for rows in packing.plan_packed(lengths, budget):
            assert len(rows) == 1 or sum(lengths[k] for k in rows) <= budget


def test_the_padded_plan_is_the_cheapest_of_all_cuts_of_the_sorted_lengths():
    rng = np.random.default_rng(1)
    for _ in range(40):
        lengths, budget, launch = rng.integers(1, 60, 8).tolist(), int(rng.integers(60, 300)), int(rng.integers(0, 80))
        longest_first = sorted(lengths, reverse=True)
        costs = []
        for cuts in itertools.product([False, True], repeat=7):
            edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 8]
            parts = [longest_first[a:b] for a, b in itertools.pairwise(edges)]
            if all(len(p) * p[0] <= budget or len(p) == 1 for p in parts):
                costs.append(sum(len(p) * p[0] + launch for p in parts))
        plan = packing.plan_padded(lengths, budget, launch_tokens=launch)
        assert sum(len(rows) * max(lengths[k] for k in rows) + launch for rows in plan) == min(costs)


def test_long_tailed_lengths_are_padded_by_little():
    lengths = np.clip(np.random.default_rng(2).lognormal(np.log(24), 1.0, 256), 2, 256).astype(int).tolist()
    plan = packing.plan_padded(lengths, 8192)
    assert packing.padding_share(lengths, plan) < 0.12
    assert packing.padding_share(lengths, [list(range(256))]) > 0.8


def test_all_ranks_run_the_same_number_of_micro_batches():
    for packed in (False, True):
        plans = packing.plan_ranks([[10] * 9, [3], []], 20, packed=packed)
        assert len({len(plan) for plan in plans}) == 1
        assert sorted(itertools.chain(*plans[0])) == list(range(9))
        assert plans[2] == [[]] * len(plans[0])


def test_groups_are_dealt_whole_and_about_evenly():
    rng = np.random.default_rng(3)
    for ranks in (1, 2, 3, 8):
        weights = rng.integers(1, 1000, 32).tolist()
        parts = packing.partition(weights, ranks)
        assert sorted(itertools.chain(*parts)) == list(range(32))
        loads = [sum(weights[k] for k in part) for part in parts]
        # Graham's bound for longest-processing-time-first.
        assert max(loads) <= (4 / 3) * max(sum(weights) / ranks, max(weights)) + 1e-9


def test_on_a_gpu_a_cut_must_save_what_the_launches_of_one_more_micro_batch_cost():
    """A small network waits for launches: one micro-batch. A large one computes: padding is what costs."""
    lengths = [1000] * 4 + [100] * 60
    small, large = packing.launch_tokens("cuda", 12, 40_000_000), packing.launch_tokens("cuda", 32, 8_000_000_000)
    assert packing.launch_tokens("cpu", 12, 40_000_000) == packing.LAUNCH_TOKENS < large < small
    assert len(packing.plan_padded(lengths, 10**6, launch_tokens=100 * small)) == 1
    assert len(packing.plan_padded(lengths, 10**6, launch_tokens=large)) == 2
