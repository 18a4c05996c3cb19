"""Which bundle finds a place on which node, and what is in its way. Pure: `rayrl plan --live` and a run that was not placed print it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SLACK = 1e-6


@dataclass(frozen=True)
class Node:
    """A node of a live cluster."""

    address: str
    total: Mapping[str, float]
    """Resources by name: CPU, GPU, and custom ones."""
    free: Mapping[str, float]
    id: str = ""


@dataclass(frozen=True)
class Fit:
    """One bundle against every node."""

    bundle: Mapping[str, float]
    obstacles: Mapping[str, str]
    """Node address -> what it lacks, by itself; empty where the bundle fits."""
    place: str | None
    """A node that still has room after all bundles before; None where no node has."""

    @property
    def impossible(self) -> bool:
        """Fits on no node, even if it were alone."""
        return all(self.obstacles.values())


def fit(bundles: Sequence[Mapping[str, float]], nodes: Sequence[Node]) -> list[Fit]:
    """Every bundle against every node, and a place for each: the largest first, each on the node with most room left.

    Ray may pack otherwise; a bundle without a place here can only be placed by luck.
    """
    left = {node.address: dict(node.free) for node in nodes}
    places: dict[int, str | None] = {}
    order = sorted(range(len(bundles)), key=lambda i: (-bundles[i].get("GPU", 0), -bundles[i].get("CPU", 0), i))
    for i in order:
        able = [a for a, room in left.items() if not _lacks(bundles[i], room)]
        place = max(able, key=lambda a: (left[a].get("GPU", 0), left[a].get("CPU", 0)), default=None)
        places[i] = place
        if place is not None:
            for kind, amount in bundles[i].items():
                left[place][kind] = left[place].get(kind, 0.0) - amount
    return [Fit(bundle, {n.address: _obstacle(bundle, n) for n in nodes}, places[i]) for i, bundle in enumerate(bundles)]


def misfits(names: Sequence[str], fits: Sequence[Fit]) -> list[str]:
    """What cannot be placed, in words. ``names``: who lives in each bundle."""
    found = []
    for name, one in zip(names, fits, strict=True):
        if one.place is not None:
            continue
        why = "; ".join(f"{address}: {obstacle}" for address, obstacle in one.obstacles.items() if obstacle)
        if one.impossible:
            found.append(f"{name} asks for {amounts(one.bundle)} and fits on no node ({why or 'there is none'})")
        else:
            found.append(f"{name} asks for {amounts(one.bundle)} and no node has that left after the others")
    return found


def amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {amount:g}" for kind, amount in resources.items()) or "nothing"


def _obstacle(bundle: Mapping[str, float], node: Node) -> str:
    """What a node lacks for a bundle: for good, or at present."""
    lacking = _lacks(bundle, node.free)
    return ", ".join(
        f"{kind} {node.free.get(kind, 0.0):g} free of {node.total[kind]:g}" if kind in node.total else f"no {kind}" for kind in lacking
    )


def _lacks(bundle: Mapping[str, float], room: Mapping[str, float]) -> list[str]:
    return [kind for kind, amount in bundle.items() if room.get(kind, 0.0) + _SLACK < amount]
