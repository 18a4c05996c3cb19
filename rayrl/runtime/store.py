"""Ray's object store as roles see it.

In Ray an object dies with the process that owns it, and `ray.put` makes the caller the owner. Trajectories must outlive the
rollout worker that made them, so the worker only stashes a value (`offer`) and the buffer calls `adopt`: the result of that
call is owned by the buffer and lies in shared memory on the maker's node. Large values are copied once, into shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError

from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.runtime.framing import framed


class Stash(Protocol):
    def stash(self, value: Any) -> int: ...


class Ticket:
    """A value that waits in its maker's process to be adopted."""

    __slots__ = ("key", "maker")

    def __init__(self, maker: Any, key: int) -> None:
        self.maker, self.key = maker, key

    def __reduce__(self):
        return (Ticket, (self.maker, self.key))


class RayStore:
    """Unbound in the driver; the host of a role binds it to its own process. Pickling unbinds it."""

    def __init__(self, adopt_s: float, stash: Stash | None = None, actor: Any = None) -> None:
        self._adopt_s, self._stash, self._actor = adopt_s, stash, actor

    def bound(self, stash: Stash, actor: Any) -> RayStore:
        return RayStore(self._adopt_s, stash, actor)

    def __reduce__(self):
        return (RayStore, (self._adopt_s,))

    def put(self, value: Any) -> Any:
        return ray.put(framed(value))

    def offer(self, value: Any) -> Any:
        value = framed(value)
        return ray.put(value) if self._stash is None else Ticket(self._actor, self._stash.stash(value))

    def adopt(self, ticket: Any) -> Any:
        """Returns when the value is safe: from here on its maker may die. Raises `RoleFailed` when it died before."""
        if not isinstance(ticket, Ticket):
            return ticket
        ref = ticket.maker.hand_over.remote(ticket.key)
        ready, _ = ray.wait([ref], timeout=self._adopt_s, fetch_local=False)
        if not ready:
            raise RoleFailed(f"a payload was not handed over within {self._adopt_s:.0f} s")
        return ref

    def get(self, ref: Any, *, timeout_s: float) -> Any:
        return _get(ref, timeout_s) if isinstance(ref, ray.ObjectRef) else ref

    def get_all(self, refs: Sequence[Any], *, timeout_s: float) -> list[Any]:
        found = iter(_get([ref for ref in refs if isinstance(ref, ray.ObjectRef)], timeout_s))
        return [next(found) if isinstance(ref, ray.ObjectRef) else ref for ref in refs]


def _get(refs: Any, timeout_s: float) -> Any:
    """A reference or a list of them. Raises `DeadlineExceeded` or `RoleFailed`."""
    try:
        return ray.get(refs, timeout=timeout_s)
    except GetTimeoutError:
        raise DeadlineExceeded(f"waited {timeout_s:.0f} s for an object of the store", "raise deadlines.call_s") from None
    except RayError as e:
        raise RoleFailed(f"an object was lost with the process that owned it: {str(e).splitlines()[0]}") from None
