"""What a running Ray cluster has, what of it is free, and which jobs it runs."""

from __future__ import annotations

import os
import time
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from rayrl.config.fitting import Node
from rayrl.config.schema import PlacementConfig
from rayrl.errors import ConfigError, EnvironmentMissing

_TOKEN = "A cluster that asks for a token needs RAY_AUTH_MODE=token and the token's file"


def live_nodes(placement: PlacementConfig) -> list[Node]:
    """Joins the cluster for the moment of the question. Raises `ConfigError` without an address, `EnvironmentMissing` without an answer."""
    address, joined = placement.ray_address or os.environ.get("RAY_ADDRESS"), ray.is_initialized()
    if not joined:
        if not address:
            raise ConfigError("no cluster is named", "set placement.ray_address (auto: the one of this machine), or RAY_ADDRESS")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as e:
            hint = f"is it started, and reachable from here? {_TOKEN}"
            raise EnvironmentMissing(f"no Ray cluster answers at {address}: {str(e).splitlines()[0]}", hint) from e
    try:
        return nodes()
    finally:
        if not joined:
            ray.shutdown()


def nodes() -> list[Node]:
    """Of the cluster that this process has joined; internal resources of Ray left out."""
    free = available_resources_per_node()
    return [
        Node(n["NodeManagerAddress"], _public(n["Resources"]), _public(free.get(n["NodeID"], {})), n["NodeID"])
        for n in ray.nodes()
        if n["Alive"]
    ]


def jobs(address: str) -> list[dict[str, Any]]:
    """The submitted jobs that the job server at ``address`` knows, newest first: id, state, seconds since the start, command.

    Raises `EnvironmentMissing` without an answer.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        found = [job for job in JobSubmissionClient(address).list_jobs() if job.submission_id]
    except (ConnectionError, RuntimeError) as e:
        hint = (
            "is it the address of the dashboard (port 8265)? A cluster that asks for a token needs RAY_AUTH_MODE=token and the token's file"
        )
        raise EnvironmentMissing(f"no job server answers at {address}: {str(e).splitlines()[0]}", hint) from e
    found.sort(key=lambda job: job.start_time or 0, reverse=True)
    return [
        {
            "job": job.submission_id,
            "state": str(job.status.value).lower(),
            "alive": not job.status.is_terminal(),
            "age_s": time.time() - (job.start_time or 0) / 1000,
            "command": job.entrypoint,
        }
        for job in found
    ]


def leaving(timeout_s: float) -> set[str]:
    """Ids of nodes that are being drained."""
    return set(ray._private.worker.global_worker.gcs_client.get_draining_nodes(timeout=timeout_s))


def store_shares() -> list[tuple[float, float]]:
    """Used and total bytes of the object store of each living node."""
    free, key = available_resources_per_node(), "object_store_memory"
    found = [(n["Resources"].get(key, 0.0), free.get(n["NodeID"], {}).get(key)) for n in ray.nodes() if n["Alive"]]
    return [(0.0 if left is None else total - left, total) for total, left in found]


def _public(resources: dict[str, float]) -> dict[str, float]:
    hidden = ("memory", "object_store_memory")
    return {
        k: v
        for k, v in resources.items()
        if k not in hidden and not k.startswith(("node:", "accelerator_type:", "bundle_")) and "_group_" not in k
    }
