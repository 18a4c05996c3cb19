"""Ray's object store as roles see it.

In Ray an object dies with the process that owns it, and `ray.put` makes the caller the owner. Trajectories must outlive the
rollout worker that made them, so the worker only stashes a value (`offer`) and the buffer calls `adopt_all`: the results of that
call are owned by the buffer and lie in shared memory on the maker's node. Large values are copied once, into shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError

from rayrl.errors import DeadlineExceeded, PayloadLost, RoleFailed
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

    def adopt_all(self, tickets: Sequence[Any]) -> list[Any]:
        """Returns when the values are safe: from here on their makers may die. One call to each maker, whatever the number of values.

        What is no ticket stays as it is. Raises `RoleFailed` when a maker died before.
        """
        found = list(tickets)
        of_maker: dict[Any, list[int]] = {}
        for i, ticket in enumerate(tickets):
            if isinstance(ticket, Ticket):
                of_maker.setdefault(ticket.maker, []).append(i)
        for maker, places in of_maker.items():
            refs = maker.hand_over.options(num_returns=len(places)).remote([tickets[i].key for i in places])
            for i, ref in zip(places, refs if len(places) > 1 else [refs], strict=True):
                found[i] = ref
        adopted = [found[i] for places in of_maker.values() for i in places]
        _, missing = ray.wait(adopted, num_returns=len(adopted), timeout=self._adopt_s, fetch_local=False) if adopted else ([], [])
        if missing:
            raise RoleFailed(f"{len(missing)} payloads were not handed over within {self._adopt_s:.0f} s")
        return found

    def get(self, ref: Any, *, timeout_s: float) -> Any:
        return _get(ref, timeout_s) if isinstance(ref, ray.ObjectRef) else ref

    def get_all(self, refs: Sequence[Any], *, timeout_s: float) -> list[Any]:
        found = iter(_get([ref for ref in refs if isinstance(ref, ray.ObjectRef)], timeout_s))
        return [next(found) if isinstance(ref, ray.ObjectRef) else ref for ref in refs]


def _get(refs: Any, timeout_s: float) -> Any:
    """A reference or a list of them. Raises `DeadlineExceeded` or `PayloadLost`."""
    try:
        return ray.get(refs, timeout=timeout_s)
    except GetTimeoutError:
        raise DeadlineExceeded(f"waited {timeout_s:.0f} s for an object of the store", "raise deadlines.call_s") from None
    except RayError as e:
        raise PayloadLost(f"an object was lost with the process that owned it: {str(e).splitlines()[0]}") from None
