"""The in-process twin of the Ray runtime: the same roles as plain objects, each call on its role's own threads.

For unit tests, debuggers and many short runs of tiny models (`placement.runtime=in_process`): one process, no Ray, the same driver
loop. It isolates nothing; a role that crashes the interpreter takes the run along.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from rayrl.deadlines import Deadline
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.edges import about, deadline_of


class LocalStore:
    """References are the values themselves."""

    def put(self, value: Any) -> Any:
        return value

    def get(self, ref: Any, *, timeout_s: float) -> Any:
        return ref

    def get_all(self, refs: Sequence[Any], *, timeout_s: float) -> list[Any]:
        return list(refs)

    offer = put

    def adopt_all(self, tickets: Sequence[Any]) -> list[Any]:
        return list(tickets)


class LocalPending:
    def __init__(self, role: str, method: str, future: Future, about: str = "") -> None:
        self._role, self._method, self._future, self._about, self._since = role, method, future, about, time.monotonic()

    def deadline(self, timeout_s: float) -> Deadline:
        return deadline_of(self._role, self._method, timeout_s, self._about, self._since)

    def result(self, timeout_s: float) -> Any:
        try:
            return self._future.result(timeout_s)
        except FutureTimeout:
            if self._future.done():  # the role itself raised a TimeoutError
                raise
            raise self.deadline(timeout_s).error() from None

    def wait(self, timeout_s: float) -> bool:
        return self._future in wait([self._future], timeout_s).done


class LocalHandle:
    def __init__(self, spec: RoleSpec, role: Any, call_s: float) -> None:
        self.name, self._role, self._call_s = spec.name, role, call_s
        self._threads = ThreadPoolExecutor(spec.concurrency, thread_name_prefix=spec.name)
        self._control = ThreadPoolExecutor(1, thread_name_prefix=f"{spec.name}-control")

    def submit(self, method: str, *args: Any, **kwargs: Any) -> LocalPending:
        call = self._threads.submit(getattr(self._role, method), *args, **kwargs)
        return LocalPending(self.name, method, call, about(method, args))

    def lasting(self) -> LocalHandle:
        return self

    def attend(self) -> LocalPending:
        return LocalPending(self.name, "attend", Future())

    def observe(self, method: str) -> LocalPending:
        return LocalPending(self.name, method, self._control.submit(getattr(self._role, method)))

    def spans(self) -> LocalPending:
        recorder = getattr(self._role, "spans", None)
        return LocalPending(self.name, "spans", self._control.submit(recorder.drain if recorder is not None else list))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self.submit(method, *args, **kwargs).result(self._call_s + kwargs.get("wait_s", 0.0))


class LocalRuntime:
    def __init__(self, call_s: float = 60.0) -> None:
        self.store, self._call_s, self._handles = LocalStore(), call_s, []

    def start(self, specs: Sequence[RoleSpec], timeout_s: float) -> list[LocalHandle]:
        handles = [LocalHandle(spec, spec.build(**spec.kwargs), self._call_s) for spec in specs]
        self._handles += handles
        return handles

    def stop(self, handle: LocalHandle) -> None:
        for threads in (handle._threads, handle._control):
            threads.shutdown(wait=False, cancel_futures=True)

    def address(self, handle: LocalHandle) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{probe.getsockname()[1]}"

    def usage(self) -> dict[str, float]:
        return {"used": 0.0, "capacity": 0.0, "fullest": 0.0}

    def node_of(self, handle: LocalHandle) -> str:
        return "here"

    def leaving(self) -> set[str]:
        return set()

    def room(self) -> list[Mapping[str, float]]:
        return []

    def shutdown(self) -> None:
        for handle in self._handles:
            self.stop(handle)
