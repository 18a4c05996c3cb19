"""Real Ray for the tests of this folder: one small local session per module, gone before others start their own."""

from __future__ import annotations

import pytest

from rayrl.config.schema import DeadlinesConfig, PlacementConfig
from rayrl.runtime.ray_runtime import RayRuntime


@pytest.fixture(scope="module")
def ray_runtime(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    runtime = RayRuntime(
        PlacementConfig(object_store_mib=128), DeadlinesConfig(call_s=30, start_s=60), logs, bundles=[{"CPU": 1}], local_cpus=2
    )
    yield runtime
    runtime.shutdown()
