"""A whole run in this process (`conf/profiles/in_process.yaml`): the driver's loop, no Ray, no server, a few seconds to start."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from rayrl import driver
from rayrl.config.loading import load

QUICK = ("learner.optim.lr=4.0e-5", "batch.groups_per_step=16", "evaluation.every=0", "checkpoint.every=0")


def train(recipe: str, overrides: Sequence[str]) -> Path:
    """Trains ``recipe`` to its budget and returns the run folder; what the run prints goes to ``console.txt`` there."""
    loaded = load(recipe, [*QUICK, *overrides], profile="in_process")
    disable_progress_bar()
    torch.set_num_threads(1)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        folder = driver.train(loaded)
    (folder / "console.txt").write_text(said.getvalue(), "utf-8")
    return folder
