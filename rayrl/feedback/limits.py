"""What keeps a judge from being asked too fast, in vain, or for too much money. Pure: the caller brings the clock."""

from __future__ import annotations

from dataclasses import dataclass

from rayrl.config.schema import BudgetConfig, RetryConfig

_WINDOW_S = 5.0
"""A rate limit may be used ahead by so many seconds' worth."""


class TokenBucket:
    """At most ``per_minute`` units on average; 0 is no limit."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60.0
        self._most = max(1.0, self._rate * _WINDOW_S)
        self._level, self._then = self._most, 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next unit may be taken; 0 when it may at once."""
        if not self._rate:
            return 0.0
        self._refill(now)
        return 0.0 if self._level >= 1.0 else (1.0 - self._level) / self._rate

    def take(self, units: float, now: float) -> None:
        """May go below zero: then the next one waits for longer. Negative units are given back."""
        if self._rate:
            self._refill(now)
            self._level = min(self._most, self._level - units)

    def _refill(self, now: float) -> None:
        self._level = min(self._most, self._level + self._rate * max(0.0, now - self._then)) if self._then else self._level
        self._then = now


class Breaker:
    """Opens after so many failures of the server in a row; after a pause one question tries again, and its success closes it."""

    def __init__(self, settings: RetryConfig) -> None:
        self._limit, self._pause_s = settings.breaker_failures, settings.breaker_s
        self._failures, self._until, self._trying = 0, 0.0, False
        self.times_open = 0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._limit

    def delay(self, now: float) -> float | None:
        """Seconds until a question may be sent; None while the one that tries is out."""
        if not self.is_open:
            return 0.0
        return None if self._trying else max(0.0, self._until - now)

    def sent(self) -> None:
        self._trying = self.is_open

    def succeeded(self) -> None:
        self._failures, self._trying = 0, False

    def failed(self, now: float, *, open_at_once: bool = False) -> None:
        """``open_at_once``: a wrong key or an unknown model, which no repetition mends."""
        was_open = self.is_open
        self._failures = max(self._failures + 1, self._limit if open_at_once else 0)
        self._trying = False
        if self.is_open:
            self._until = now + self._pause_s
            self.times_open += not was_open

    def spared(self) -> None:
        """The one that tried came back without telling anything about the server."""
        self._trying = False


@dataclass
class Budget:
    """A hard cap: spent and reserved together never exceed it, whatever the answers cost."""

    settings: BudgetConfig
    tokens: float = 0.0
    """Spent so far."""
    usd: float = 0.0
    reserved_tokens: float = 0.0
    reserved_usd: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """US dollars."""
        budget = self.settings
        return (prompt_tokens * budget.usd_per_million_input + completion_tokens * budget.usd_per_million_output) / 1e6

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> tuple[int, float] | None:
        """Sets the most that a question can cost aside; None when that might exceed the budget."""
        tokens, usd = prompt_tokens + completion_tokens, self.cost(prompt_tokens, completion_tokens)
        caps = self.settings
        if caps.tokens is not None and self.tokens + self.reserved_tokens + tokens > caps.tokens:
            return None
        if caps.usd is not None and self.usd + self.reserved_usd + usd > caps.usd:
            return None
        self.reserved_tokens += tokens
        self.reserved_usd += usd
        return tokens, usd

    def settle(self, reserved: tuple[int, float], tokens: int, usd: float) -> None:
        """The question came back, with what it really cost."""
        self.reserved_tokens -= reserved[0]
        self.reserved_usd -= reserved[1]
        self.tokens += tokens
        self.usd += usd
