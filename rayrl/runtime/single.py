"""A role that there is one of and that everybody calls: when its process dies, the driver is told and starts another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rayrl.errors import RoleDied
from rayrl.runtime.contract import Handle, Pending, RoleSpec, Runtime

_ATTEMPTS = 3


class Single:
    """``single.method(...)`` calls and waits, as a `Handle` does. Raises ``lost`` when the process is gone, until `restart`.

    Others call it through `handle`, which finds the new process by itself.
    """

    def __init__(self, runtime: Runtime, spec: RoleSpec, start_s: float, lost: type[RoleDied] = RoleDied) -> None:
        """``spec`` must be ``lasting``."""
        self._runtime, self._spec, self._start_s, self._lost = runtime, spec, start_s, lost
        self._process = runtime.start([spec], start_s)[0]
        self.name = spec.name
        self.restarts = 0

    @property
    def handle(self) -> Handle:
        """For other roles: a call on the dead process fails, the calls after it reach the next one."""
        return self._process.lasting()

    def submit(self, method: str, *args: Any) -> Pending:
        return self._process.submit(method, *args)

    def restart(self) -> None:
        """Ends what is left of the process and starts another, which knows nothing yet."""
        self._runtime.stop(self._process)
        for attempt in range(_ATTEMPTS):
            try:
                self._process = self._runtime.start([self._spec], self._start_s)[0]
                break
            except RoleDied:  # also the new one may die before it is built
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(2.0**attempt)
        self.restarts += 1

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(self._process, method)(*args, **kwargs)
            except RoleDied as failure:
                raise self._lost(failure.message, failure.hint) from failure

        return call
