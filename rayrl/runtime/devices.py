"""Which GPU each role was given, as Ray counts them on each node. No role reads or sets ``CUDA_VISIBLE_DEVICES`` itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayrl.errors import PlacementError


class Devices:
    """Devices that belong to one role alone."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], str] = {}

    def claim(self, role: str, node: Mapping[str, Any]) -> None:
        """``node``: ``address`` and ``accelerators`` (kind -> ids) of the role's process. A role that starts again gives up what it had.

        Raises `PlacementError` where another role has one of them.
        """
        self._owners = {device: owner for device, owner in self._owners.items() if owner != role}
        for device in ids(node["accelerators"]):
            owner = self._owners.setdefault((node["address"], device), role)
            if owner != role:
                raise PlacementError(
                    f"{role} and {owner} were both given {device} of {node['address']}",
                    "unset RAY_EXPERIMENTAL_NOSET_* and CUDA_VISIBLE_DEVICES where Ray is started, so that Ray counts the devices",
                )


def ids(accelerators: Mapping[str, Sequence[str]]) -> list[str]:
    """E.g. ``["GPU 3"]``; empty on a CPU."""
    return [f"{kind} {number}" for kind, numbers in sorted(accelerators.items()) for number in numbers]
