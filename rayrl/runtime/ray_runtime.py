"""Roles as Ray actors: a session on a local or an existing cluster, a placement group, the object store.

Ray restarts nothing by itself here: a role that dies is reported with its log, and `pool.py` decides what happens.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from rayrl.config.fitting import amounts, fit, misfits
from rayrl.config.schema import DeadlinesConfig, PlacementConfig
from rayrl.errors import PlacementError, RoleFailed
from rayrl.lock import Lock, lock, without_source
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.daemons import own_session
from rayrl.runtime.devices import Devices
from rayrl.runtime.host import HostActor, RayHandle, RayPending
from rayrl.runtime.live import leaving, nodes, store_shares
from rayrl.runtime.store import RayStore

_FORWARDED = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "TOKENIZERS_PARALLELISM",
    "WANDB_API_KEY",
    "WANDB_MODE",
    "NCCL_DEBUG",
    "NCCL_SOCKET_IFNAME",
)
"""The only environment variables that reach actors on other nodes."""


class RayRuntime:
    """Joins or starts Ray, reserves bundles, hosts roles. `shutdown` ends only what this object started."""

    def __init__(
        self,
        placement: PlacementConfig,
        deadlines: DeadlinesConfig,
        log_dir: Path,
        *,
        bundles: Sequence[Mapping[str, float]] = (),
        local_cpus: int | None = None,
    ) -> None:
        self._deadlines, self._log_dir, self._group = deadlines, log_dir.absolute(), None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")  # inside a submitted job the same variables come from two sides
        address = placement.ray_address or os.environ.get("RAY_ADDRESS")
        self._own = not ray.is_initialized() and not address
        if not ray.is_initialized():
            local = {"num_cpus": local_cpus, "object_store_memory": placement.object_store_mib * 2**20, "include_dashboard": False}
            with own_session():
                ray.init(
                    address=address or "local",  # null is a cluster of our own, also where somebody else's runs on this machine
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env={"env_vars": {key: os.environ[key] for key in _FORWARDED if key in os.environ}},
                    **(local if self._own else {}),
                )
        for old in self._log_dir.glob("*.life"):  # of an earlier start
            old.unlink(missing_ok=True)
        self._started: list[RayHandle] = []
        self._devices = Devices()
        self._id = uuid.uuid4().hex[:8]
        self.store = RayStore(deadlines.call_s)
        if bundles:
            self._group = self._reserve([dict(b) for b in bundles], "PACK" if placement.nodes <= 1 else "SPREAD")

    def start(self, specs: Sequence[RoleSpec], timeout_s: float) -> list[RayHandle]:
        handles: list[RayHandle] = []
        refs = []
        for spec in specs:
            log = str(self._log_dir / f"{spec.name}.log")
            registered = f"rayrl/{self._id}/{spec.name}" if spec.lasting else ""
            actor = self._host(spec, log, registered)
            handles.append(RayHandle(spec.name, actor, self._deadlines.call_s, log, registered))
            self._started.append(handles[-1])
            refs.append(RayPending(spec.name, "start", actor.build.remote(spec.build, dict(spec.kwargs)), log))
        limit = time.monotonic() + timeout_s
        waiting = dict(zip((p.ref for p in refs), refs, strict=True))
        try:
            while waiting:  # whoever fails first is reported first, not whoever was asked first
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, limit - time.monotonic()))
                if not ready:
                    raise next(iter(waiting.values())).late(timeout_s)
                waiting.pop(ready[0]).result(10.0)
            for spec, handle in zip(specs, handles, strict=True):
                if spec.gpus >= 1:
                    self._devices.claim(spec.name, self.node(handle))
        except BaseException:  # a role that was tried in vain must not keep its process
            for handle in handles:
                self.stop(handle)
            raise
        return handles

    def node(self, handle: RayHandle) -> dict:
        """Pid, address, a free port and accelerators of a role's process."""
        return ray.get(handle._actor.node.remote(), timeout=self._deadlines.call_s)

    def node_of(self, handle: RayHandle) -> str:
        return self.node(handle)["node_id"]

    def leaving(self) -> set[str]:
        return leaving(self._deadlines.call_s)

    def room(self) -> list[Mapping[str, float]]:
        away = self.leaving()
        return [node.free for node in nodes() if node.id not in away]

    def address(self, handle: RayHandle) -> str:
        node = self.node(handle)
        return f"{node['address']}:{node['port']}"

    def reserve_address(self, spec: RoleSpec) -> str:
        """``host:port`` for a rendezvous of ranks, on the node of ``spec``'s bundle."""
        actor = self._host(replace(spec, cores=()), "")
        try:
            node = ray.get(actor.node.remote(), timeout=self._deadlines.start_s)
        except (GetTimeoutError, RayActorError) as e:
            raise RoleFailed(f"no process could be started for {spec.name}: {e}") from None
        ray.kill(actor)
        return f"{node['address']}:{node['port']}"

    def stop(self, handle: RayHandle) -> None:
        ray.kill(handle._actor, no_restart=True)

    def usage(self) -> dict[str, float]:
        shares = store_shares()
        used, capacity = sum(u for u, _ in shares), sum(c for _, c in shares)
        return {"used": used, "capacity": capacity, "fullest": max((u / c for u, c in shares if c), default=0.0)}

    def shutdown(self) -> None:
        for handle in self._started if ray.is_initialized() else ():
            self.stop(handle)
        if self._group is not None and ray.is_initialized():
            remove_placement_group(self._group)
        if self._own:
            ray.shutdown()

    def _host(self, spec: RoleSpec, log: str, registered: str = "") -> ray.actor.ActorHandle:
        search_path = [os.path.abspath(entry) for entry in sys.path]
        arguments = (log, spec.threads, spec.cores, spec.nice, dict(spec.env), search_path, spec.trace, self._lock_of(spec.name))
        if not registered:
            return HostActor.options(**self._options(spec)).remote(*arguments)
        limit = time.monotonic() + self._deadlines.call_s
        while True:
            try:
                return HostActor.options(**self._options(spec), name=registered).remote(*arguments)
            except ValueError as e:  # Ray has not noticed yet that the one before is dead
                if time.monotonic() > limit:
                    raise RoleFailed(f"{spec.name} cannot be started: {e}") from None
                time.sleep(0.1)

    def _lock_of(self, name: str) -> Lock:
        """What a process must have installed; one that joins a run under way may find an edited checkout."""
        again = any(handle.name == name for handle in self._started)
        return without_source(lock()) if again else lock()

    def _options(self, spec: RoleSpec) -> dict:
        options: dict = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "max_concurrency": spec.concurrency, "max_restarts": 0}
        if spec.resources:
            options["resources"] = dict(spec.resources)
        if self._group is not None and spec.bundle is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=spec.bundle)
        elif spec.lasting:  # there is one of it: it stays with the driver, not on a node that may be taken back
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return options

    def _reserve(self, bundles: list[dict[str, float]], strategy: str):
        group = placement_group(bundles, strategy=strategy)
        if group.wait(self._deadlines.placement_s):
            return group
        remove_placement_group(group)
        found = nodes()
        table = "\n".join(f"    {n.address}: {amounts(n.free)} free of {amounts(n.total)}" for n in found)
        lines = misfits([f"bundle {i}" for i in range(len(bundles))], fit(bundles, found))
        asked = "\n".join(f"    {line}" for line in lines) or "    each bundle for itself would fit by now"
        raise PlacementError(
            f"the cluster did not place the run within {self._deadlines.placement_s:.0f} s\n  asked:\n{asked}\n  nodes:\n{table}",
            "ask for fewer GPUs or engines, or add nodes; `rayrl plan --live` shows each role against each node",
        )
