"""The key/value cache of rows that run side by side: a new token is written into its place, and nothing else is copied.

Rows are aligned at their last token, which all rows get at once; what lies before a row's first token is never attended to. A row
that ends is replaced by the last one, so that the rows in use stay the first ones of the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens for which a buffer has space when it is made."""


class RowCache(Cache):
    """Of ``layers`` attention layers. What models read of it is what `transformers.DynamicCache` offers."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_RowLayer() for _ in range(layers)])

    def join(self, other: Cache, index: Tensor) -> None:
        """Rows ``index`` int64[F] of ``other`` (a prefill) become the last rows."""
        for own, layer in zip(self.layers, other.layers, strict=True):
            own.join(layer.keys[index], layer.values[index])

    def leave(self, kept: Sequence[int], width: int) -> list[int]:
        """Only the rows ``kept`` go on, at least one of them; none has more than ``width`` tokens. Returns them in their new order."""
        order, late = list(range(len(kept))), [row for row in kept if row >= len(kept)]
        holes = sorted(set(order) - set(kept))
        for hole, row in zip(holes, late, strict=True):
            order[hole] = row
        for layer in self.layers:
            layer.leave(len(kept), holes, late, width)
        return order


class _RowLayer(DynamicLayer):
    """``keys`` and ``values`` [rows, heads, width, D] are views of larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []
        self._rows = self._first = self._last = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """One more position for every row."""
        more = key_states.shape[-2]
        self._reserve((key_states, value_states), self._rows, before=0, after=more)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self._last : self._last + more] = new
        self._last += more
        return self._show()

    def join(self, keys: Tensor, values: Tensor) -> None:
        rows, width = keys.shape[0], keys.shape[-2]
        self._reserve((keys, values), self._rows + rows, before=max(0, width - (self._last - self._first)), after=0)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[self._rows : self._rows + rows, :, self._last - width : self._last] = new
        self._rows, self._first = self._rows + rows, min(self._first, self._last - width)
        self._show()

    def leave(self, rows: int, holes: list[int], late: list[int], width: int) -> None:
        for buffer in self._buffers if holes else ():
            buffer[holes] = buffer[late]
        self._rows, self._first = rows, self._last - width
        self._show()

    def _reserve(self, like: tuple[Tensor, Tensor], rows: int, *, before: int, after: int) -> None:
        """Space for so many rows, and for positions before the first one and after the last one."""
        held = self._buffers[0].shape if self._buffers else (0, 0, 0)
        if rows <= held[0] and before <= self._first and self._last + after <= held[2]:
            return
        width, old, begin = self._last - self._first, self._buffers, self._first
        self._first, self._last = before, before + width
        shape = max(rows, held[0]), like[0].shape[1], before + width + max(after, ROOM)
        # zeros, not whatever memory holds: a probability of 0 times infinity would be no number
        self._buffers = [x.new_zeros(*shape, x.shape[-1]) for x in like]
        for new, buffer in zip(self._buffers, old, strict=False):
            new[: self._rows, :, before : before + width] = buffer[: self._rows, :, begin : begin + width]

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[: self._rows, :, self._first : self._last] for buffer in self._buffers)
        self.is_initialized = True
        return self.keys, self.values
