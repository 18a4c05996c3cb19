import numpy as np
import pytest

from rayrl.algorithms.running_stats import RunningStats


def reference(batches: list[np.ndarray]) -> tuple[float, float]:
    """The definition, step by step: mean 0, variance 1, weight 1e-4; two samples pooled, the newcomer's variance unbiased."""
    mean, variance, weight = 0.0, 1.0, 1e-4
    for batch in batches:
        n, m = len(batch), batch.mean()
        v = ((batch - m) ** 2).sum() / (n - 1) if n > 1 else 0.0
        squares = variance * weight + v * n + (mean - m) ** 2 * weight * n / (weight + n)
        mean, weight = (mean * weight + m * n) / (weight + n), weight + n
        variance = squares / weight
    return mean, variance


def test_statistics_are_pooled_as_defined():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        batches = [rng.normal(rng.normal(0, 5), rng.uniform(0.1, 4), rng.integers(1, 40)) for _ in range(rng.integers(1, 12))]
        stats = RunningStats()
        for batch in batches:
            stats.update(batch)
        assert (stats.mean, stats.variance) == pytest.approx(reference(batches), rel=1e-9, abs=1e-12)


def test_the_minibatch_is_counted_before_it_is_normalised():
    stats = RunningStats()
    values = np.array([10.0, 12.0, 14.0])
    got = stats.update_and_normalize(values)
    np.testing.assert_allclose(got, (values - 12) / 2, atol=1e-3)


def test_scale_and_shift_of_the_scores_do_not_reach_the_reward():
    for k, c in ((0.01, 0.0), (40.0, -7.0), (3.0, 100.0)):
        rng = np.random.default_rng(1)
        plain, moved = RunningStats(), RunningStats()
        for _ in range(50):
            batch = rng.normal(1.0, 2.0, 64)
            a, b = plain.update_and_normalize(batch), moved.update_and_normalize(k * batch + c)
        assert np.abs(a - b).max() < 1e-3


def test_a_value_that_is_no_number_is_refused_before_it_spoils_everything():
    stats = RunningStats()
    with pytest.raises(ValueError, match="finite"):
        stats.update(np.array([1.0, np.nan]))
    assert (stats.mean, stats.variance) == (0.0, 1.0)
    stats.update(np.empty(0))
    assert stats.weight == 1e-4


def test_state_is_exact():
    stats, copy = RunningStats(), RunningStats()
    stats.update(np.random.default_rng(0).normal(size=33))
    copy.restore(stats.state())
    stats.update(np.arange(5.0))
    copy.update(np.arange(5.0))
    assert stats.state() == copy.state()
