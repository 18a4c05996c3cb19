"""What an evaluation says of bi-level returns."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.evaluation.estimators import anti_concentration, heterogeneity
from rayrl.evaluation.held_out import KAPPA, diagnosed


def test_prompts_that_were_never_solved_count_for_the_mean_return_and_for_no_spread():
    rng = np.random.default_rng(0)
    for _ in range(100):
        solved = rng.integers(0, 9, (int(rng.integers(1, 4)), 6)).astype(float)
        solved[:, 0] = 9.0
        never = np.zeros((int(rng.integers(0, 3)), 6))
        found = diagnosed([*solved.tolist(), *never.tolist()])
        assert found["return"] == pytest.approx(np.concatenate([solved, never]).mean())
        assert found["heterogeneity"] == pytest.approx(np.mean([heterogeneity(row) for row in solved]))
        assert found["anti_concentration"] == pytest.approx(np.mean([anti_concentration(row, KAPPA) for row in solved]))


def test_without_returns_nothing_is_said_and_without_a_solution_there_is_no_spread():
    assert diagnosed([]) == {}
    assert diagnosed([[0.0, 0.0]]) == {"return": 0.0, "heterogeneity": 0.0, "anti_concentration": 0.0}
