"""Spans: what each role did when. Cheap enough to run always.

The clock is the wall clock in nanoseconds, so that the spans of different processes of one machine lie on one time axis.
`telemetry/perfetto.py` writes them to files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from time import time_ns
from typing import Any, NamedTuple


class Span(NamedTuple):
    name: str
    start_ns: int
    """Wall clock, nanoseconds since the epoch."""
    duration_ns: int
    thread: int
    args: Mapping[str, Any] | None


class _Open:
    """A span in progress; a class with slots because a generator-based context manager costs three times as much."""

    __slots__ = ("args", "name", "recorder", "start")

    def __init__(self, recorder: SpanRecorder, name: str, args: Mapping[str, Any] | None) -> None:
        self.recorder, self.name, self.args, self.start = recorder, name, args, time_ns()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        end, spans = time_ns(), self.recorder._spans
        if len(spans) == spans.maxlen:
            self.recorder.lost += 1
        spans.append((self.name, self.start, end - self.start, get_ident(), self.args))


class SpanRecorder:
    """Records the spans of one role, from any of its threads. Below 2 µs per span.

    Keeps the latest ``capacity`` spans that were not drained; what falls out is counted in `lost`.
    """

    def __init__(self, role: str, *, enabled: bool = True, capacity: int = 100_000) -> None:
        self.role = role
        self.enabled = enabled
        self.lost = 0
        self._spans: deque[tuple] = deque(maxlen=capacity)

    def span(self, name: str, **args: Any) -> AbstractContextManager[None]:
        """``with recorder.span("generate", sequences=64): ...``; ``args`` are shown in Perfetto and must be JSON-able."""
        return _Open(self, name, args or None) if self.enabled else nullcontext()

    def drain(self) -> list[Span]:
        """All finished spans since the last call, oldest first."""
        spans = []
        while self._spans:  # popleft is atomic: other threads go on recording
            spans.append(Span(*self._spans.popleft()))
        return spans


class Burst:
    """Many short steps of one kind as few spans: one per burst of activity, cut every ``longest_s`` seconds. Owned by one thread."""

    def __init__(self, recorder: SpanRecorder, name: str, longest_s: float = 1.0) -> None:
        self._recorder, self._name, self._longest_ns = recorder, name, int(longest_s * 1e9)
        self._span: AbstractContextManager[None] | None = None
        self._started = 0

    def go_on(self) -> None:
        """Another step begins."""
        now = time_ns()
        if self._span is not None and now - self._started > self._longest_ns:
            self.end()
        if self._span is None:
            self._span, self._started = self._recorder.span(self._name), now
            self._span.__enter__()

    def end(self) -> None:
        """Nothing more to do for now."""
        if self._span is not None:
            self._span.__exit__(None, None, None)
            self._span = None
