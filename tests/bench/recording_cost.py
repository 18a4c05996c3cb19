"""One training run that records in every other block of steps: what recording costs, measured against the same run without it.

    python tests/bench/recording_cost.py FOLDER

Prints a JSON line: processor seconds of a step (driver, Ray and all roles together) with and without trajectories and spans, the seconds
of a step, and the standard errors of both differences. Processor time tells more than the clock where other programs run.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import psutil

from rayrl import driver
from rayrl.config.loading import load
from rayrl.models import tiny
from rayrl.recorder import Recorder

BLOCK, BLOCKS = 8, 13
SETTINGS = ["batch.groups_per_step=32", "batch.group_size=8", "telemetry.wandb=off", "telemetry.report=false", "evaluation.enabled=false"]


def records(step: int) -> bool:
    return (step // BLOCK) % 2 == 1


def processor_s() -> float:
    """Of this process and all that came from it."""
    total, me = 0.0, psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:  # gone since it was listed
            continue
        total += times.user + times.system
    return total


def main(folder: Path) -> dict[str, float]:
    edges: list[tuple[int, float, float]] = []
    step_before, draw_before = Recorder.step, Recorder._draw

    def step(self, number, *rest):
        if number % BLOCK == 1:  # one step late: what a block records is written during the step after
            edges.append((number - 1, time.monotonic(), processor_s()))
        return step_before(self, number, *rest)

    Recorder.keeps = lambda self, number: records(number)  # type: ignore[method-assign]
    Recorder.step = step  # type: ignore[method-assign]
    Recorder._draw = lambda self, roles: draw_before(self, roles) if records(self._step) else None  # type: ignore[method-assign]
    settings = [
        *SETTINGS,
        f"run.steps={BLOCK * (BLOCKS + 1) + 2}",
        f"run.dir={folder / 'run'}",
        f"model.path={tiny.save(folder / 'model')}",
    ]
    driver.train(load("arithmetic_grpo", settings))
    blocks = [(records(a[0]), (b[1] - a[1]) / BLOCK, (b[2] - a[2]) / BLOCK) for a, b in pairwise(edges[1:])]
    pairs = [(p, q) if p[0] else (q, p) for p, q in pairwise(blocks)]  # each block beside its neighbours
    found: dict[str, float] = {}
    for place, name in ((1, "step"), (2, "processor")):
        off = mean(q[place] for _, q in pairs)
        differences = [p[place] - q[place] for p, q in pairs]
        found |= {
            f"{name}_s": off,
            f"{name}_share": mean(differences) / off,
            f"{name}_share_error": stdev(differences) / (len(differences) / 2) ** 0.5 / off,  # neighbouring pairs share a block
        }
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))), flush=True)
