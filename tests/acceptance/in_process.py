"""A whole run in this process: the driver's loop over the in-process twin of the runtime. No Ray, no server, a few seconds to start."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from rayrl import assembly, driver
from rayrl.config.loading import load
from rayrl.config.placement import RoleResources, role_resources, run_resources
from rayrl.config.schema import Config
from rayrl.runtime.contract import Runtime
from rayrl.runtime.local import LocalRuntime

QUICK = (
    "rollout.engine=torch",
    "learner.backend=torch",
    "learner.cpu_threads=1",
    "learner.optim.lr=4.0e-5",
    "batch.groups_per_step=16",
    "evaluation.every=0",
    "checkpoint.every=0",
    "checkpoint.export=false",
    "telemetry.wandb=off",
    "telemetry.rollouts=false",
)


def train(recipe: str, overrides: Sequence[str]) -> Path:
    """Trains ``recipe`` to its budget and returns the run folder; what the run prints goes to ``console.txt`` there."""
    loaded = load(recipe, [*QUICK, *overrides], profile="cpu")
    disable_progress_bar()
    real, said = assembly.start_runtime, io.StringIO()
    assembly.start_runtime = _start
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(said):
            folder = driver.train(loaded)
    finally:
        assembly.start_runtime = real
    (folder / "console.txt").write_text(said.getvalue(), "utf-8")
    return folder


def _start(config: Config, log_dir: Path) -> tuple[Runtime, dict[str, RoleResources], str]:
    found = run_resources(config.placement, 2, 0)
    roles = role_resources(config, found.cpus, 0, cores=None)
    return LocalRuntime(config.deadlines.call_s), {role.name: role for role in roles}, "cpu"
