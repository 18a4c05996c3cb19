"""What the driver may ask of a runtime: start a role somewhere, call it, wait for it with a limit, end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rayrl.deadlines import Deadline
from rayrl.protocols import Store


@dataclass(frozen=True)
class RoleSpec:
    """A role and the process it wants. ``build(**kwargs)`` is called inside that process; `Handle`s in kwargs are allowed."""

    name: str
    build: Callable[..., Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    bundle: int | None = None
    """Index of the placement-group bundle it lives in; None is anywhere."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources beside ``cpus`` and ``gpus``, of a role that lives outside the bundles."""
    threads: int = 0
    """Compute threads (OpenMP and torch); 0 leaves the default."""
    cores: tuple[int, ...] = ()
    """Cores the process is pinned to; empty is not pinned."""
    nice: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 16
    """Calls that may run at the same time."""
    lasting: bool = False
    """Other roles call it through `Handle.lasting`, which finds its replacement when it died."""
    passive: bool = False
    """It has no loop of its own and works only when it is called."""
    trace: bool = True
    """Record a span for every call that the role serves."""


class Pending(Protocol):
    """A call under way."""

    def result(self, timeout_s: float) -> Any:
        """Raises `DeadlineExceeded` when time runs out, `RoleFailed` when the process died, or what the role raised."""

    def wait(self, timeout_s: float) -> bool:
        """True once there is a result or a failure."""

    def deadline(self, timeout_s: float) -> Deadline:
        """Who waits for whom since the call was made; ``timeout_s`` is its limit."""


class Handle(Protocol):
    """A running role. ``handle.method(...)`` calls and waits (up to the call deadline plus a ``wait_s`` among the arguments)."""

    name: str

    def submit(self, method: str, *args: Any, **kwargs: Any) -> Pending: ...

    def lasting(self) -> Handle:
        """A handle to pass to other roles: a call on a dead role fails, the calls after it reach its replacement."""

    def attend(self) -> Pending:
        """Done, with a failure, when the process dies: how a pool watches a role that has no loop."""

    def observe(self, method: str) -> Pending:
        """A call without arguments that does not queue behind the role's work; for counters that any thread may read."""

    def spans(self) -> Pending:
        """The spans of the role's process since the last call: list of `telemetry.spans.Span`."""

    def __getattr__(self, method: str) -> Callable[..., Any]: ...


class Runtime(Protocol):
    store: Store

    def start(self, specs: Sequence[RoleSpec], timeout_s: float) -> list[Handle]:
        """Starts all roles side by side and returns when all are built. The first failure is raised with its role's last log lines."""

    def stop(self, handle: Handle) -> None:
        """Ends one role at once."""

    def address(self, handle: Handle) -> str:
        """``host:port`` on the role's node, the port free just now: where others can meet it."""

    def usage(self) -> Mapping[str, float]:
        """Bytes of the object store: ``used``, ``capacity``; and ``fullest``, the share that is used on the node where it is most."""

    def node_of(self, handle: Handle) -> str:
        """Id of the node that a role lives on."""

    def leaving(self) -> set[str]:
        """Ids of the nodes that are being drained: what lives there should go elsewhere."""

    def room(self) -> list[Mapping[str, float]]:
        """What is free on each node that stays."""

    def shutdown(self) -> None: ...
