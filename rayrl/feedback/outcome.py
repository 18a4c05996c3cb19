"""What one attempt at a question came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    values: tuple[float, ...] = ()
    """The label; empty when there is none."""
    error: str = ""
    """``kind: detail``; empty exactly when there are values."""
    raw_answers: tuple[str, ...] = ()
    latency_s: float = 0.0
    tokens: int = 0
    cost_usd: float = 0.0
    counts: bool = True
    """The attempt counts against the limit: the question may be at fault. False when only the server was."""
    retry: bool = True
    """Another attempt may help."""
    pause_s: float = 0.0
    """The server asks to be left alone for so long."""

    @property
    def kind(self) -> str:
        """First word of the error."""
        return self.error.partition(":")[0]
