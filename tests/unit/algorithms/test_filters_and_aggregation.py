"""The numpy half: what the buffer does to the rewards of a group."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.algorithms.aggregation import weighted_sum
from rayrl.algorithms.filters import none, zero_variance


def f32(*values):
    return np.array(values, dtype=np.float32)


def test_zero_variance_drops_exactly_the_groups_that_teach_nothing():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(1, 9))
        kept = rng.random(n) < 0.8
        rewards = np.where(kept, rng.integers(0, 2, n), np.nan).astype(np.float32)
        seen = {float(r) for r in rewards[kept]}
        expected = "no_kept_samples" if not seen else "zero_variance" if len(seen) == 1 else None
        assert zero_variance(rewards, kept) == expected
        assert none(rewards, kept) is None


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-45])
def test_equal_floats_have_no_variance(value):
    assert zero_variance(np.full(7, value, np.float32), np.ones(7, bool)) == "zero_variance"


def test_weighted_sum_equals_a_loop():
    rng = np.random.default_rng(1)
    for _ in range(200):
        names = [f"c{i}" for i in range(rng.integers(1, 5))]
        n = int(rng.integers(0, 9))
        components = {name: rng.normal(size=n).astype(np.float32) for name in names}
        weights = {name: float(rng.normal()) for name in names}
        got = weighted_sum(components, weights)
        assert got.dtype == np.float32 and got.shape == (n,)
        for i in range(n):
            assert got[i] == pytest.approx(sum(weights[c] * float(components[c][i]) for c in names), rel=1e-6, abs=1e-6)


def test_the_order_of_components_does_not_change_a_bit_of_the_sum():
    components = {"a": f32(1e17), "b": f32(1), "c": f32(-1e17)}  # 1 is lost or kept, by order
    weights = dict.fromkeys("abc", 1.0)
    sums = {weighted_sum({name: components[name] for name in order}, weights).item() for order in ("abc", "acb", "cab", "bca", "cba")}
    assert len(sums) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failed_score_is_never_a_number(bad):
    with pytest.raises(ValueError, match=r"'format' of sample 1"):
        weighted_sum({"exact": f32(1, 0), "format": f32(0, bad)}, {"exact": 1.0, "format": 0.0})


@pytest.mark.parametrize("weights", [{}, {"a": 1.0, "b": 1.0}, {"b": 1.0}])
def test_components_and_weights_must_name_the_same_things(weights):
    with pytest.raises(ValueError, match="name the same"):
        weighted_sum({"a": f32(1)}, weights)


def test_ragged_components_and_overflow_are_refused():
    with pytest.raises(ValueError):
        weighted_sum({"a": f32(1), "b": f32(1, 2)}, {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="overflows"), np.errstate(over="ignore"):
        weighted_sum({"a": f32(3e38)}, {"a": 2.0})
