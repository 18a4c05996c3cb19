"""Trained frames per second of `rayrl train`, as a process of its own that is ended when it was watched long enough."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rayrl.telemetry.jsonl import read_metrics

WARMUP_S = 20.0
"""Of training, not counted."""
QUIET = ("telemetry.wandb=off", "telemetry.report=false", "evaluation.enabled=false", "checkpoint.export=false")


def frames_per_s(recipe: str, seconds: float, *overrides: str) -> float:
    """Raises `RuntimeError` when the run ends by itself or never gets there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        settings = [f"run.dir={folder}", "run.steps=1000000", *QUIET, *overrides]
        process = subprocess.Popen([sys.executable, "-m", "rayrl", "train", recipe, *settings], stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 5 * (seconds + WARMUP_S) + 300
        try:
            while process.poll() is None and time.monotonic() < limit:
                time.sleep(1.0)
                counted = _counted(folder)
                if counted and counted[-1]["time"] - counted[0]["time"] >= seconds:
                    break
            else:
                raise RuntimeError(f"rayrl ended with {process.poll()}, or did not train for {seconds:.0f} s")
        finally:
            process.terminate()
            process.wait(timeout=120)
        frames = counted[-1]["agent/frames"] - counted[0]["agent/frames"]
        return frames / (counted[-1]["time"] - counted[0]["time"])


def _counted(folder: Path) -> list[dict]:
    """Metrics of the steps after the warm-up."""
    file = folder / "metrics.jsonl"
    rows = [row for row in read_metrics(file) if "agent/frames" in row] if file.exists() else []
    return [row for row in rows if row["time"] - rows[0]["time"] >= WARMUP_S]
