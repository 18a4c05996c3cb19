"""One cluster of two nodes for the module, gone before others start their own."""

from __future__ import annotations

import pytest
from nodes import TwoNodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = TwoNodes(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
