"""Version spans for a vLLM that does not stamp its tokens with the weight version, such as 0.26.

While generation stands still for an update, vLLM's front end has seen every token so far: their number is where the next span begins.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from rayrl.types import VersionSpan


class TokenStamps:
    """``output_processor``: that of vLLM's front end, which knows the running requests under the ids we gave them."""

    def __init__(self, output_processor: Any) -> None:
        self._processor, self._version = output_processor, 0
        self._cuts: dict[str, list[tuple[int, int]]] = {}

    def begin(self, name: str) -> None:
        """A request starts under the present version."""
        self._cuts[name] = [(self._version, 0)]

    def cut(self, version: int) -> None:
        """Every running request goes on under ``version``; call it while generation is paused."""
        self._version = version
        reached = {state.external_req_id: state.detokenizer.num_output_tokens() for state in self._processor.request_states.values()}
        for name, cuts in self._cuts.items():
            cuts.append((version, reached.get(name, 0)))  # a request that vLLM does not know yet has no tokens

    def end(self, name: str, length: int) -> tuple[VersionSpan, ...]:
        """Spans over the ``length`` tokens of a request that has ended, however it did; it is forgotten."""
        cuts = [*self._cuts.pop(name), (0, length)]
        return tuple(VersionSpan(version, start, end) for (version, start), (_, end) in pairwise(cuts) if end > start)
