"""What the driver itself costs: its own processor time per training step, and per group as batches grow.

    python tests/bench/bench_driver.py

The driver's share is taken from a run with the real parts (vLLM, DeepSpeed, a tiny model). The cost per group is taken from runs
with the fake engine, whose batches of 10 to 1,000 groups stand for that many engines' worth of work.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from report import emit

from rayrl.models import tiny
from rayrl.telemetry.jsonl import read_metrics

SIZES = (10, 100, 1000)
SKIPPED = 2
LIMIT_S = 600


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = tiny.save(folder / "model")
        real = run(folder / "real", model, "run.steps=8", "rollout.engine=vllm", "batch.groups_per_step=32", "batch.group_size=8")
        share = median(row["step/driver_cpu_s"] / row["step/total_s"] for row in real)
        fake = ["run.steps=6", "rollout.engine=fake", "sync.canary=false", "batch.group_size=2", "rollout.sampling.max_tokens=4"]
        per_group = {}
        for groups in SIZES:
            rows = run(folder / str(groups), model, *fake, f"batch.groups_per_step={groups}", "rollout.max_running=4000")
            per_group[groups] = median(row["step/driver_cpu_s"] for row in rows) / groups
    ratios = {"share_of_step": share, "cost_per_group_1000_to_10": per_group[SIZES[-1]] / per_group[SIZES[0]]}
    targets = {"share_of_step": ("<=", 0.05), "cost_per_group_1000_to_10": ("<=", 1.0)}
    sys.exit(0 if emit("driver", ratios, targets, ms_per_group={str(k): 1e3 * v for k, v in per_group.items()}) else 1)


def run(folder: Path, model: Path, *overrides: str) -> list[dict]:
    """The steps after the first ones."""
    fixed = ["telemetry.wandb=off", "evaluation.enabled=false", "checkpoint.export=false", f"run.dir={folder}", f"model.path={model}"]
    command = [sys.executable, "-m", "rayrl", "train", "arithmetic_grpo", *fixed, *overrides]
    subprocess.run(command, check=True, timeout=LIMIT_S, stdout=subprocess.DEVNULL)
    return [row for row in read_metrics(folder / "metrics.jsonl") if row["step"] > SKIPPED and "step/total_s" in row]


if __name__ == "__main__":
    main()
