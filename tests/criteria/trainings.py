"""One training of an agent in a process of its own, and what came of it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rayrl.telemetry.jsonl import read_metrics

QUIET = ("telemetry.wandb=off", "telemetry.report=false", "telemetry.rollouts=false", "checkpoint.export=false", "evaluation.enabled=false")


@dataclass(frozen=True)
class Outcome:
    """The last numbers of a run."""

    seconds: float
    frames: int
    labels: int
    asked: int
    last: dict[str, float]

    @property
    def success(self) -> float:
        """Share of the last 100 episodes that reached the goal."""
        return self.last.get("episode/success", 0.0)


def train(recipe: str, folder: Path, *overrides: str, limit_s: float = 1500.0) -> Outcome:
    """Raises `RuntimeError` with the end of the run's output when it fails."""
    command = [sys.executable, "-m", "rayrl", "train", recipe, f"run.dir={folder}", *QUIET, *overrides]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "learner/loss" in row]
    last = rows[-1]
    labels, asked = int(last.get("feedback/labelled_count", 0)), int(last.get("feedback/asked_count", 0))
    return Outcome(time.monotonic() - started, int(last["agent/frames"]), labels, asked, last)
