"""A few trained trajectories as plain rows, for trackers that show tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rayrl.report.details import read_details
from rayrl.report.index import read_index

COLUMNS = ("step", "id", "task", "reward", "advantage", "staleness", "finish", "prompt", "text", "expected")


def sample_rows(folder: Path, most: int = 200) -> list[list[Any]]:
    """At most ``most`` rows of `COLUMNS`, evenly spread over a run's rollouts folder."""
    index = read_index(folder)
    trained = np.flatnonzero(index.trained)
    chosen = trained[np.unique(np.linspace(0, len(trained) - 1, most).astype(int))] if len(trained) else trained
    details = read_details(index, chosen, lambda ids: [])
    keys = [*COLUMNS[:-1], "truth"]
    return [[details[row][key] for key in keys] for row in chosen.tolist()]
