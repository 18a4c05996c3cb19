"""What the checks of `tests/acceptance` measured: a file that their command writes (`measured.json`), and its sentences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "measured.json"


@dataclass(frozen=True)
class Checked:
    """One claim of a paper's page, as a comparison of two runs on a tiny language model."""

    paper: int
    claim: str
    arm: str
    control: str
    quantity: str
    arm_values: tuple[float, ...]
    """One per seed."""
    control_values: tuple[float | None, ...]
    """None where the control has no such number: then the claim is about the arm alone."""
    seeds_held: int
    holds: bool
    """In most seeds."""

    def sentence(self) -> str:
        """``claim: holds on 2 of 3 seeds (quantity: arm 0.61, 0.6, 0.55; control 0.4, 0.4, 0.61)``."""
        seen = "holds" if self.holds else "does NOT hold: true"
        numbers = f"{self.arm} {_listed(self.arm_values)}"
        if any(v is not None for v in self.control_values):
            numbers += f"; {self.control} {_listed(self.control_values)}"
        return f"{self.claim}: {seen} on {self.seeds_held} of {len(self.arm_values)} seeds ({self.quantity}: {numbers})"


def checked(paper: int) -> list[Checked]:
    """The claims of a paper that were measured, in the order of its page."""
    return [
        Checked(**line | {name: tuple(line[name]) for name in ("arm_values", "control_values")})
        for line in measured()["checks"]
        if line["paper"] == paper
    ]


@cache
def measured() -> dict[str, Any]:
    """The file: ``tokens`` of each run, ``trials`` by name, ``checks``."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def _listed(values: tuple[float | None, ...]) -> str:
    return ", ".join("none" if v is None else f"{v:.3g}" for v in values)
