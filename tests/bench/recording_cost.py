"""One training run of the demo's model that records in every other block of steps: what recording costs, counted and compared.

    python tests/bench/recording_cost.py FOLDER [BLOCKS]

Prints a JSON line. ``recording_share``: processor seconds of the process that writes trajectories (all it ever uses, reading the object
store included) and of the driver's thread while it hands over work to it or draws the timeline, per recorded step, over the processor
seconds of a step that is not recorded. This is exact to a few per mille, but leaves out what recording causes in other roles (the
learner copies log-probs and advantages of each token). ``processor_share`` and ``step_share`` compare recorded steps with their
neighbours as wholes, so that nothing escapes; other work makes them noisy, and their standard errors say how much.
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
from rayrl.runtime import life

BLOCK, BLOCKS = 4, 25
"""Steps of a block, and how many there are unless the command says it."""
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


class Counted:
    """Processor seconds of recording: of the driver's thread inside the wrapped methods, and of the archive's process."""

    def __init__(self, logs: Path) -> None:
        self._logs, self.driver_s, self._archive = logs, 0.0, None

    def wrap(self, method):
        def counted(*words):
            began = time.thread_time()
            result = method(*words)
            self.driver_s += time.thread_time() - began
            return result

        return counted

    def seconds(self) -> float:
        if self._archive is None:
            (pid,) = (sign.facts["pid"] for sign in life.read(self._logs) if sign.role.startswith("archive"))
            self._archive = psutil.Process(pid)
        times = self._archive.cpu_times()
        return self.driver_s + times.user + times.system


def main(folder: Path, count: int = BLOCKS) -> dict[str, float]:
    edges: list[tuple[int, float, float, float]] = []
    step_before, counted = Recorder.step, Counted(folder / "run" / "logs")
    archive, draw = counted.wrap(Recorder._archive), counted.wrap(Recorder._draw)

    def step(self, number, *rest):
        if number % BLOCK == 1:  # one step late: what a block records is written during the step after
            edges.append((number - 1, time.monotonic(), processor_s(), counted.seconds()))
        return step_before(self, number, *rest)

    Recorder.keeps = lambda self, number: records(number)  # type: ignore[method-assign]
    Recorder.step = step  # type: ignore[method-assign]
    Recorder._archive = archive  # type: ignore[method-assign]
    Recorder._draw = lambda self, roles: draw(self, roles) if records(self._step) else None  # type: ignore[method-assign]
    settings = [
        *SETTINGS,
        f"run.steps={BLOCK * (count + 1) + 2}",
        f"run.dir={folder / 'run'}",
        f"model.path={tiny.save(folder / 'model', tiny.SMALL)}",
    ]
    driver.train(load("arithmetic_grpo", settings))
    blocks = [(records(a[0]), *((y - x) / BLOCK for x, y in zip(a[1:], b[1:], strict=True))) for a, b in pairwise(edges[1:])]
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
    return found | {"recording_share": mean(block[3] for block in blocks if block[0]) / found["processor_s"]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))), flush=True)
