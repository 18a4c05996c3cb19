"""How long judges take and what their attempts come to."""

from __future__ import annotations

from collections import Counter, deque

from rayrl.feedback.outcome import Outcome

_WINDOW = 512
"""Newest attempts that latencies are told of."""


class Meter:
    def __init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=_WINDOW)
        self._errors: Counter[str] = Counter()
        self._attempts = 0

    def attempt(self, outcome: Outcome) -> None:
        self._attempts += 1
        if outcome.error:
            self._errors[outcome.kind] += 1
        if outcome.raw_answers:
            self._latencies.append(outcome.latency_s)

    def numbers(self) -> dict[str, float]:
        """Since this process began: attempts, errors by kind; latency percentiles in seconds of the newest answers."""
        numbers: dict[str, float] = {"feedback/attempts_count": self._attempts}
        if self._latencies:
            ranked = sorted(self._latencies)
            numbers["feedback/latency_p50_s"] = ranked[len(ranked) // 2]
            numbers["feedback/latency_p95_s"] = ranked[min(len(ranked) - 1, int(len(ranked) * 0.95))]
        return numbers | {f"feedback/errors/{kind}": count for kind, count in self._errors.items()}
