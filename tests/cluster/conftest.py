"""One cluster of two nodes for the module, gone before others start their own; and clusters that a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from nodes import QUICK_TO_NOTICE, Cluster

from rayrl.models import tiny


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes: ``learner``, the head, and ``rollout``."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), jobs=True)
    try:
        cluster.start("learner", "rollout")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def nodes(tmp_path_factory) -> Iterator[Callable[..., Cluster]]:
    """``nodes("learner", "rollout", …)`` is a cluster of one's own, which notices within ten seconds that a node is gone."""
    begun: list[Cluster] = []

    def start(*resources: str) -> Cluster:
        begun.append(Cluster(tmp_path_factory.mktemp("cluster"), **QUICK_TO_NOTICE))
        begun[-1].start(*resources)
        return begun[-1]

    yield start
    for cluster in begun:
        cluster.stop()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nano"))
