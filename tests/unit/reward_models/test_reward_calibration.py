import numpy as np
import pytest

from rayrl.reward_models import calibration


def test_a_calibrated_model_has_no_error_and_an_overconfident_one_has_the_gap():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 200_000)
    outcome = (rng.uniform(0, 1, len(p)) < p).astype(float)
    assert calibration.reliability(p, outcome).expected_error < 0.01
    certain = np.where(p > 0.5, 1.0, 0.0)  # right 75 times in 100, sure every time
    assert calibration.reliability(certain, outcome).expected_error == pytest.approx(0.25, abs=0.01)


def test_expected_error_is_the_weighted_gap_of_the_bins():
    found = calibration.reliability(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]), bins=10)
    assert found.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.expected_error == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
    assert np.isnan(found.accuracy[1])


def test_balanced_accuracy_does_not_reward_the_majority():
    labels = np.array([0] * 90 + [1] * 10)
    assert calibration.balanced_accuracy(np.zeros(100, int), labels) == 0.5
    assert calibration.balanced_accuracy(labels, labels) == 1.0


def test_pair_accuracy_leaves_ties_out_and_counts_no_opinion_half():
    margin, preference = np.array([2.0, -1.0, 0.0, 5.0]), np.array([1.0, 1.0, 0.0, 0.5])
    assert calibration.pair_accuracy(margin, preference) == pytest.approx((1 + 0 + 0.5) / 3)
    assert np.isnan(calibration.pair_accuracy(margin[3:], preference[3:]))


def test_nothing_to_measure_is_nan_and_no_error():
    empty = np.empty(0)
    assert np.isnan(calibration.reliability(empty, empty).expected_error)
    assert np.isnan(calibration.balanced_accuracy(empty.astype(int), empty.astype(int)))
    assert np.isnan(calibration.class_shares(empty.astype(int), 2)).all()
    assert np.isnan(calibration.correlation(np.ones(3), np.arange(3.0)))


@pytest.mark.parametrize("right, count", [(9, 10), (50, 100), (30, 30), (0, 5), (650, 1000)])
def test_the_lower_bound_is_the_share_that_would_just_have_given_so_many_by_a_normal_chance_of_one_in_twenty(right, count):
    low = calibration.lower_bound(right / count, count)
    shares = np.linspace(0, right / count, 2_000_001)[:-1]
    explained = (right / count - shares) <= 1.6449 * np.sqrt(shares * (1 - shares) / count)
    assert low == pytest.approx(shares[explained].min() if explained.any() else 0.0, abs=1e-5)


def test_nothing_is_known_of_no_examples():
    assert calibration.lower_bound(1.0, 0) == calibration.lower_bound(float("nan"), 3) == 0.0
