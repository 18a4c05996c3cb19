"""No weight is believed: what an engine must prove after an update, and which lies are caught."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.errors import WeightSyncError
from rayrl.types import SyncReport, WeightManifest, WeightUpdate
from rayrl.weight_check import WeightCheck


def update(version: int, digest: str, canary) -> WeightUpdate:
    return WeightUpdate(WeightManifest(version, (), (), (digest * 8,)), [], canary_logprobs=np.array(canary, np.float32))


def report(version: int, digest: str, canary, gap: float | None = 0.0) -> SyncReport:
    return SyncReport(version, digest * 8, 0.01, 0.01, gap, np.array(canary, np.float32))


def test_an_engine_that_proves_every_update_is_accepted():
    check = WeightCheck(0.05)
    for version in range(5):
        value = [-1.0 - version]
        check.accept(update(version, "abcde"[version], value), [report(version, "abcde"[version], value)] * 3)


@pytest.mark.parametrize(("version", "digest"), [(1, "b"), (2, "a")])
def test_other_bytes_or_another_version_are_refused(version, digest):
    with pytest.raises(WeightSyncError, match="an engine holds version"):
        WeightCheck(0.05).accept(update(1, "a", [-1.0]), [report(1, "a", [-1.0]), report(version, digest, [-1.0])])


@pytest.mark.parametrize("gap", [0.051, float("nan")])
def test_an_engine_that_computes_something_else_is_refused(gap):
    with pytest.raises(WeightSyncError, match="canary"):
        WeightCheck(0.05).accept(update(1, "a", [-1.0]), [report(1, "a", [-1.0], gap)])


def test_an_update_that_reached_no_layer_is_refused():
    check = WeightCheck(10.0)
    check.accept(update(1, "a", [-1.0]), [report(1, "a", [-1.0])])
    with pytest.raises(WeightSyncError, match="the engine's did not"):
        check.accept(update(2, "b", [-1.5]), [report(2, "b", [-1.0], 0.5)])


def test_a_step_too_small_to_see_is_no_lie():
    check = WeightCheck(0.05)
    check.accept(update(1, "a", [-1.0]), [report(1, "a", [-1.0])])
    check.accept(update(2, "b", [-1.0000001]), [report(2, "b", [-1.0])])
