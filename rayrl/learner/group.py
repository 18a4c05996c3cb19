"""The ranks that train together, as far as the step logic needs to know."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """Collectives over small tensors on the CPU; every rank makes the same calls in the same order."""

    rank: int
    size: int

    def sum(self, x: Tensor) -> Tensor:
        """Elementwise sum of ``x`` over ranks."""

    def max(self, x: Tensor) -> Tensor:
        """Elementwise maximum of ``x`` over ranks."""


class Alone:
    """A group of one rank."""

    rank, size = 0, 1

    def sum(self, x: Tensor) -> Tensor:
        return x

    def max(self, x: Tensor) -> Tensor:
        return x
