"""The Ray actor that hosts one role, and the handle through which others call it.

One generic actor class serves every role: it prepares its process (log file, threads, cores, priority) *before* the role's
heavy imports, builds the role, and forwards calls. Logs go to ``<run>/logs/<role>.log`` whatever happens to the process.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rayrl.deadlines import OPEN, Deadline, Watchdog
from rayrl.errors import DeadlineExceeded, RayrlError, RoleDied, RoleFailed
from rayrl.lock import assert_equal
from rayrl.runtime.devices import ids
from rayrl.runtime.edges import about, deadline_of
from rayrl.runtime.life import Life
from rayrl.runtime.store import RayStore
from rayrl.telemetry.spans import Span, SpanRecorder

_HOUR_S = 3600.0
_LOOKED_BACK, _MOST_CAUSES = 500, 3
"""Lines of a log in which the errors before its end are looked for, and how many of them are shown."""
_CHILD_ERROR = re.compile(r"(?:\([^)]*\)\s+)?(?:ERROR [^\]]*\]\s+)?[\w.]*(?:Error|Exception): ")
"""The last line of a traceback, also with what vLLM puts before the lines of its own processes."""
_ENDLESS = frozenset({"run"})
"""Methods that are no piece of work."""
_CONTROL = "control"
"""Ray's concurrency group of the calls that never queue behind the role's work."""
_PRESENCE = "presence"
"""The group of the one call that lasts as long as the process."""


class Host:
    """Lives in the actor process. Two phases: the constructor is light and always succeeds, `build` may fail with a reason."""

    def __init__(
        self,
        log_path: str,
        threads: int,
        cores: tuple[int, ...],
        nice: int,
        env: Mapping[str, str],
        search_path: Sequence[str],
        trace: bool,
        lock: Sequence[str] = (),
    ) -> None:
        self._expected = lock
        self._role: Any = None
        self._spans = SpanRecorder("host", enabled=trace)
        self._outbox: dict[int, Any] = {}
        self._next, self._lock = 0, threading.Lock()
        _redirect_output(log_path)
        sys.path += [entry for entry in search_path if entry not in sys.path]  # so that the user's own modules are found here too
        os.environ.update(env)
        if threads:
            os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
        if cores and hasattr(os, "sched_setaffinity"):
            for thread in os.listdir("/proc/self/task"):  # threads that Ray started before us keep their old mask otherwise
                os.sched_setaffinity(int(thread), cores)
        if nice:
            os.nice(nice)
        OPEN.me = Path(log_path).stem or OPEN.me
        self._life = Life(Path(log_path).with_suffix(".life")) if log_path else None
        self._watchdog = Watchdog(lambda edge: print(edge, flush=True))
        devices = "".join(f", {device}" for device in ids(ray.get_runtime_context().get_accelerator_ids()))
        print(f"pid {os.getpid()} on {socket.gethostname()} ({ray.util.get_node_ip_address()}){devices}", flush=True)

    @ray.method(concurrency_group=_CONTROL)
    def node(self) -> dict[str, Any]:
        """Where this process runs: pid, address, a free port, accelerators as Ray assigned them (physical ids)."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        ids = ray.get_runtime_context().get_accelerator_ids()
        node_id = ray.get_runtime_context().get_node_id()
        return {"pid": os.getpid(), "address": ray.util.get_node_ip_address(), "port": port, "accelerators": ids, "node_id": node_id}

    def build(self, builder: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        assert_equal(self._expected, f"the process on {socket.gethostname()} ({ray.util.get_node_ip_address()})")
        me = ray.get_runtime_context().current_actor
        kwargs = {key: value.bound(self, me) if isinstance(value, RayStore) else value for key, value in kwargs.items()}
        try:
            self._role = builder(**kwargs)
        except Exception as error:
            self._tell(error)
            raise

    def call(self, method: str, args: tuple, kwargs: dict) -> Any:
        self._require_built(method)
        with nullcontext() if method in _ENDLESS else self._spans.span(method):
            try:
                return getattr(self._role, method)(*args, **kwargs)
            except Exception as error:
                if method in _ENDLESS or not isinstance(error, RayrlError):
                    self._tell(error)
                else:
                    traceback.print_exc()
                raise

    def _require_built(self, method: str) -> None:
        """A replacement has its predecessor's name before it has its role: to whoever calls so early, the predecessor is still gone."""
        if self._role is None:
            raise RoleDied(f"{OPEN.me} was asked for {method} before it was built", "ask again")

    def _tell(self, error: Exception) -> None:
        """The role ends, or has a bug."""
        traceback.print_exc()
        if self._life:
            self._life.tell(raised=f"{type(error).__name__}: {_first_line(error)}", raised_at=time.time())

    @ray.method(concurrency_group=_CONTROL)
    def observe(self, method: str) -> Any:
        """Answers beside whatever the role is busy with."""
        self._require_built(method)
        return getattr(self._role, method)()

    @ray.method(concurrency_group=_PRESENCE)
    def attend(self) -> None:
        """Ends with the process: the loop of a role that has none."""
        while True:
            time.sleep(_HOUR_S)

    @ray.method(concurrency_group=_CONTROL)
    def drain_spans(self) -> list[Span]:
        """What this process did since the last call: every call it served, and what the role itself recorded."""
        own = getattr(self._role, "spans", None)
        return self._spans.drain() + (own.drain() if own is not None else [])

    def stash(self, value: Any) -> int:
        with self._lock:
            self._next += 1
            self._outbox[self._next] = value
            return self._next

    def hand_over(self, keys: Sequence[int]) -> Any:
        """Gives stashed values away as the results of a task, one each: the objects are owned by the caller, not by this process."""
        with self._lock:
            values = [self._outbox.pop(key) for key in keys]
        return values if len(values) > 1 else values[0]


HostActor = ray.remote(concurrency_groups={_CONTROL: 1, _PRESENCE: 1})(Host)


class RayPending:
    """A call under way on a Ray actor."""

    def __init__(
        self, role: str, method: str, ref: ray.ObjectRef, log_path: str, on_death: Callable[[], None] = lambda: None, about: str = ""
    ) -> None:
        self._role, self._method, self.ref, self._log, self._on_death = role, method, ref, log_path, on_death
        self._about, self._since = about, time.monotonic()

    def deadline(self, timeout_s: float) -> Deadline:
        """See `contract.Pending.deadline`."""
        return deadline_of(self._role, self._method, timeout_s, self._about, self._since)

    def late(self, timeout_s: float) -> DeadlineExceeded:
        """What to raise after ``timeout_s`` seconds without an answer."""
        return self.deadline(timeout_s).error(last_lines(self._log))

    def result(self, timeout_s: float) -> Any:
        deadline = self.deadline(timeout_s)
        try:
            with OPEN.waiting(deadline) if timeout_s else nullcontext():
                return ray.get(self.ref, timeout=timeout_s)
        except GetTimeoutError:
            raise deadline.error(last_lines(self._log)) from None
        except RayTaskError as e:
            raise _cause(e, self._role, self._log) from None
        except RayActorError as e:
            self._on_death()
            raise RoleDied(f"{self._role} died while {self._method} ran: {_first_line(e)}", last_lines(self._log)) from None

    def wait(self, timeout_s: float) -> bool:
        return bool(ray.wait([self.ref], timeout=timeout_s)[0])


class RayHandle:
    """Calls a hosted role; picklable, so that roles can call one another."""

    def __init__(self, name: str, actor: Any, call_s: float, log_path: str, registered: str = "") -> None:
        """``registered``: name under which Ray knows the actor; empty is not registered."""
        self.name, self._actor, self._call_s, self._log, self._registered = name, actor, call_s, log_path, registered

    def submit(self, method: str, *args: Any, **kwargs: Any) -> RayPending:
        return self._pending(method, self._process().call.remote(method, args, kwargs), about(method, args))

    def lasting(self) -> LastingHandle:
        """See `contract.Handle.lasting`."""
        return LastingHandle(self.name, self._registered, self._call_s, self._log)

    def attend(self) -> RayPending:
        """See `contract.Handle.attend`."""
        return self._pending("attend", self._process().attend.remote())

    def observe(self, method: str) -> RayPending:
        """A call without arguments that does not queue behind the role's work; for counters that any thread may read."""
        return self._pending(method, self._process().observe.remote(method))

    def spans(self) -> RayPending:
        """The spans of the role's process since the last call."""
        return self._pending("spans", self._process().drain_spans.remote())

    def _process(self) -> Any:
        return self._actor

    def _pending(self, method: str, ref: ray.ObjectRef, about: str = "") -> RayPending:
        return RayPending(self.name, method, ref, self._log, about=about)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self.submit(method, *args, **kwargs).result(self._call_s + kwargs.get("wait_s", 0.0))

    def __reduce__(self):
        return (RayHandle, (self.name, self._actor, self._call_s, self._log, self._registered))


class LastingHandle(RayHandle):
    """Calls whichever process plays a role at present; picklable. A replacement takes over the name of the process that died."""

    def __init__(self, name: str, registered: str, call_s: float, log_path: str) -> None:
        super().__init__(name, None, call_s, log_path, registered)

    def _process(self) -> Any:
        """Raises `RoleFailed` while there is no living process."""
        if self._actor is None:
            try:
                self._actor = ray.get_actor(self._registered)
            except ValueError:
                raise RoleDied(f"{self.name} is not there at present", last_lines(self._log)) from None
        return self._actor

    def _pending(self, method: str, ref: ray.ObjectRef, about: str = "") -> RayPending:
        return RayPending(self.name, method, ref, self._log, self._forget, about)

    def _forget(self) -> None:
        self._actor = None

    def __reduce__(self):
        return (LastingHandle, (self.name, self._registered, self._call_s, self._log))


def last_lines(log_path: str, count: int = 12) -> str:
    """The end of a role's log, for the message of a failure; before it, the errors of processes that the role started: "see above" is
    all that the role itself may have said."""
    try:
        lines = Path(log_path).read_text(errors="replace").splitlines()[-_LOOKED_BACK:]
    except OSError:
        return f"no log at {log_path}"
    shown = [line[:300] for line in lines[-count:]]
    causes = list(dict.fromkeys(line[:300] for line in lines[:-count] if _CHILD_ERROR.match(line)))[-_MOST_CAUSES:]
    before = "errors before:\n" + "".join(f"    {line}\n" for line in causes) if causes else ""
    return f"{before}last lines of {log_path}:\n" + "\n".join(f"    {line}" for line in shown)


def _cause(error: RayTaskError, role: str, log_path: str) -> Exception:
    """What the role raised: our own errors as they are, anything else as a failure of the role with its traceback's end."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    if isinstance(cause, RayrlError):
        return cause
    return RoleFailed(f"{role} raised {type(cause).__name__}: {_first_line(cause)}", last_lines(log_path))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _redirect_output(log_path: str) -> None:
    if not log_path:
        return
    Path(log_path).parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    faulthandler.enable(file=sys.stderr)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, chain=False)  # `kill -USR1 PID` writes every thread's stack to the log
