"""Rollout workers that come and go while a run goes on: a node joins and gets one, a node is drained and its workers leave it first.

A node that disappears without a word (spot reclaim) is the pool's affair: its workers are lost, their leases are reissued, and their
places are given up where they cannot be started again. Nobody waits for any of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from rayrl.runtime.contract import Handle, RoleSpec, Runtime
from rayrl.runtime.pool import Pool

_LOOK_S = 2.0
_ROUNDING = 1e-6


class Elastic:
    """Asked by the driver as often as it likes; looks at the cluster every ``look_s`` seconds."""

    def __init__(
        self,
        runtime: Runtime,
        pool: Pool,
        spec: RoleSpec,
        needs: Mapping[str, float],
        most: int,
        *,
        patience_s: float,
        say: Callable[[str], None],
        resized: Callable[[int], None] = lambda count: None,
        look_s: float = _LOOK_S,
    ) -> None:
        """``spec``: of the first worker; the others differ in name and index. ``needs``: resources of one, CPU and GPU among them.
        ``most``: workers. ``resized`` is told one more than the highest index."""
        self._runtime, self._pool, self._needs, self._most = runtime, pool, dict(needs), most
        self._spec = replace(spec, bundle=None, cores=(), resources={k: v for k, v in needs.items() if k not in ("CPU", "GPU")})
        self._patience_s, self._say, self._resized, self._look_s = patience_s, say, resized, look_s
        self._nodes: dict[int, tuple[Handle, str]] = {}
        self._looked = time.monotonic()
        pool.may_shrink = True
        pool.on_joined = lambda name: self._told(f"{name} joined: {len(pool.handles)} at work")
        pool.on_left = lambda name: self._told(f"{name} left: {len(pool.handles)} at work")

    def check(self) -> None:
        if time.monotonic() - self._looked < self._look_s:
            return
        self._looked = time.monotonic()
        self._leave()
        self._join()

    def _leave(self) -> None:
        away = self._runtime.leaving()
        if not away:
            return
        for handle in self._pool.handles:
            if self._node(handle) in away and handle.name in self._pool.names:
                self._say(f"{handle.name} leaves a node that is being drained")
                self._pool.retire(handle.name, self._patience_s)

    def _join(self) -> None:
        """One at a time: what is starting has not taken its resources yet."""
        names = self._pool.names
        if len(names) >= self._most or self._pool.starting:
            return
        if any(all(free.get(k, 0.0) + _ROUNDING >= v for k, v in self._needs.items()) for free in self._runtime.room()):
            taken = {_index(name) for name in names}
            index = next(i for i in range(self._most) if i not in taken)
            name = re.sub(r"\d+$", str(index), self._spec.name)
            kwargs = dict(self._spec.kwargs) | {"name": name, "index": index}
            self._resized(max(taken | {index}) + 1)
            self._pool.grow(replace(self._spec, name=name, kwargs=kwargs))

    def _node(self, handle: Handle) -> str:
        if id(handle) not in self._nodes:
            self._nodes[id(handle)] = (handle, self._runtime.node_of(handle))
        return self._nodes[id(handle)][1]

    def _told(self, text: str) -> None:
        living = {id(handle) for handle in self._pool.handles}
        self._nodes = {key: value for key, value in self._nodes.items() if key in living}
        self._say(text)


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])
