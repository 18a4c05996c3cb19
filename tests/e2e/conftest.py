"""What several modules of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One Ray for all runs of a module, which join it as they would join a cluster. Runs in processes of their own start their own."""
    import ray

    from rayrl.machine import inspect_machine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))  # user_code
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        memory, cores = 256 * 2**20, len(inspect_machine().cores)
        ray.init("local", num_cpus=cores, object_store_memory=memory, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
