"""What the table of methods says of a function before it is imported: where it is, which knobs it has, what it needs.

Needs neither torch nor numpy, so that `rayrl plan` can refuse a method that its configuration cannot serve. The same knobs, with
the same defaults, are the keyword-only parameters of the function; a test compares the two.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayrl.errors import ConfigError

Value = float | int | str | bool


@dataclass(frozen=True)
class Knob:
    """One setting of a method: what it is when nobody sets it, and what it may be."""

    default: Value
    doc: str
    """What turning it changes."""
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    """``low`` itself is refused."""
    choices: tuple[str, ...] = ()

    def check(self, key: str, value: Any) -> Value:
        """``value`` as this knob holds it. Raises `ConfigError` for another type, a choice that is none, or a number out of range."""
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{key} is {value!r}", f"set it to true or false: {self.doc}")
            return value
        if isinstance(self.default, str):
            if not isinstance(value, str) or (self.choices and value not in self.choices):
                allowed = f"one of {', '.join(self.choices)}" if self.choices else "give a string"
                raise ConfigError(f"{key} is {value!r}", nearest(str(value), self.choices) + allowed)
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{key} is {value!r}", f"give a number: {self.doc}")
        if isinstance(self.default, int) and value != int(value):
            raise ConfigError(f"{key} is {value}", f"give a whole number: {self.doc}")
        if not (self.low < value if self.open_low else self.low <= value) or value > self.high:
            raise ConfigError(f"{key} is {value}", f"set it to {self._range()}: {self.doc}")
        return int(value) if isinstance(self.default, int) else float(value)

    def _range(self) -> str:
        low = "" if self.low == -math.inf else f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class Entry:
    """One line of a table: a function, its knobs and its needs."""

    path: str
    """``module:attribute``."""
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    min_group: int = 1
    """Fewest samples of one prompt with which anything is learned."""
    min_components: int = 1
    """Fewest weighted reward components: heads of an ensemble, objectives, judges of a panel."""
    values: bool = False
    """Reads a critic's values."""
    reference: bool = False
    """Reads log-probs of the frozen reference model."""
    baseline: bool = False
    """Token estimators: `TokenInputs.baseline` holds the mean reward of the group."""
    steps: bool = False
    """Reads one reward per step of a trajectory: `algorithm.steps` must say how they are made."""
    binary: bool = False
    """Rewards are 0 or 1; others are refused when the first batch arrives."""
    pairs: bool = False
    """Losses: trains on pairs that `algorithm.pairs` builds."""
    target: str = ""
    """What stands in `pairs.Pairs.target`: difference (of the rewards), probability or smoothing. Builders say what they give, losses
    what they need; a loss without a need takes any."""
    groups: bool = False
    """Losses: a micro-batch holds whole groups, and the result is a sum over pairs or trajectories, not over tokens."""
    stateful: bool = False
    """``f(state, inputs, **knobs) -> (state, output)``; the state is a dict for JSON, None at first, and part of every checkpoint."""
    gaps: bool = False
    """Aggregators: NaN in a component means that this member has no score; the others decide."""


def knobs_of(parts: Mapping[str, Entry], given: Mapping[str, Any], key: str) -> dict[str, dict[str, Value]]:
    """The knobs of each part of a method (``parts``: role -> entry), defaults filled in, from one flat mapping ``given``.

    A knob goes to every part that declares it. Raises `ConfigError` that names ``key`` for one that none declares, with the nearest
    known name, and for a value out of range.
    """
    known = {name: entry for entry in parts.values() for name in entry.knobs}
    for name in given:
        if name not in known:
            who = ", ".join(dict.fromkeys(entry.path.rpartition(":")[2] for entry in parts.values() if entry.path))
            settable = f"settable: {', '.join(known)}" if known else "nothing is settable here"
            raise ConfigError(f"{key}.{name}: none of {who} has such a knob", f"{nearest(str(name), known)}{settable}")
    return {
        role: {name: knob.check(f"{key}.{name}", given.get(name, knob.default)) for name, knob in entry.knobs.items()}
        for role, entry in parts.items()
    }


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` for the known name most like ``name``; empty where none is like it."""
    similarity = {k: difflib.SequenceMatcher(None, name, k).ratio() for k in known}
    best = max(similarity, key=similarity.__getitem__, default=None)
    return f"did you mean {best!r}? " if best is not None and similarity[best] > 0.4 else ""
