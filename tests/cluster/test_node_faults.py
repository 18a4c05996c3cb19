"""What happens to nodes while a run is on them: they join, are drained, killed, cut off, frozen, slow; the head dies.

pytest -s -m slow tests/cluster/test_node_faults.py     # six minutes; prints what each fault cost

Ray without an external Redis keeps its tables in the head alone: when the head dies its cluster is over, and so is every run on it.
Such a run is continued by `rayrl resume` on another cluster, exactly.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.chaos.havoc import assert_exact, living, rows, trained_by_parquet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GROUPS, SAMPLES, BOUND = 4, 2, 2
SMALL = [
    "placement.nodes=2",
    "placement.cpus_per_node=1",
    "placement.node_groups={rollout: rollout, learner: learner}",
    "learner.backend=torch",
    "learner.cpu_threads=1",
    "rollout.engine=torch",
    "rollout.sampling.max_tokens=12",
    f"batch.groups_per_step={GROUPS}",
    f"batch.group_size={SAMPLES}",
    "evaluation.enabled=false",
    "telemetry.wandb=off",
    "telemetry.report=false",
    "checkpoint.every=10",
]
ASYNCHRONOUS = [*SMALL, f"buffer.max_staleness={BOUND}", "deadlines.start_s=90", "run.steps=100000"]


class Job:
    """`rayrl` as a process of the head, in the cluster."""

    def __init__(self, cluster, folder: Path, words: list[str]) -> None:
        self.folder, self._log = folder, folder.with_suffix(f".{time.monotonic_ns()}.log")
        argv = cluster.command(0, [sys.executable, "-m", "rayrl", *words])
        env = cluster.env | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def said(self) -> str:
        events = self.folder / "events.jsonl"
        return self._log.read_text() + (events.read_text() if events.exists() else "")

    def until(self, condition: Callable[[], object], limit_s: float = 240.0) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        while not condition():
            assert self.process.poll() is None and time.monotonic() < began + limit_s, self.said
            time.sleep(0.05)
        return time.monotonic() - began

    def steps(self, more: int) -> float:
        """Seconds until so many more steps were done."""
        at = self.step
        return self.until(lambda: self.step >= at + more)

    @property
    def step(self) -> int:
        found = rows(self.folder)
        return found[-1]["step"] if found else 0

    def end(self) -> None:
        """As a preemption does it: saved, with its own exit status."""
        self.process.terminate()
        assert self.process.wait(120) == 143, self.said


@pytest.fixture
def begin(model, tmp_path):
    jobs: list[Job] = []

    def start(cluster, name: str, *settings: str, resume: bool = False) -> Job:
        folder = tmp_path / name
        words = ["resume", str(folder)] if resume else ["train", "arithmetic_grpo", f"model.path={model}", f"run.dir={folder}", *settings]
        jobs.append(Job(cluster, folder, words))
        return jobs[-1]

    yield start
    for job in jobs:
        job.process.kill()


def assert_nothing_was_lost(folder: Path) -> None:
    assert_exact(folder, rows(folder)[-1]["step"], GROUPS)
    trained = trained_by_parquet(folder)
    assert len(trained) == SAMPLES * len(set(trained)), "a group was trained in more than one step"
    assert max(row["batch/staleness_max_versions"] for row in rows(folder)) <= BOUND


def longest_pause_s(folder: Path, since: int) -> float:
    """Between two steps after step ``since``."""
    times = [row["time"] for row in rows(folder) if row["step"] >= since]
    return max(b - a for a, b in pairwise(times))


def test_engines_come_and_go_with_their_nodes_and_the_learner_never_pauses(nodes, begin):
    cluster = nodes("learner", "rollout")
    job = begin(cluster, "run", *ASYNCHRONOUS, "placement.max_rollout=2")
    job.steps(5)
    began, took = job.step, {}
    cluster.join("rollout")
    took["a node joined, its engine is at work"] = job.until(lambda: "rollout-1 joined: 2 at work" in job.said)
    job.steps(5)
    cluster.drain(2, seconds=60)
    took["a node is drained, its engine has left"] = job.until(lambda: "rollout-1 left: 1 at work" in job.said)
    cluster.kill(2)
    job.steps(5)
    cluster.join("rollout")
    took["another joined"] = job.until(lambda: job.said.count("rollout-1 joined: 2 at work") == 2)
    job.steps(5)
    took["longest pause of the learner so far"] = calm = longest_pause_s(job.folder, began)
    at = job.step
    cluster.kill(3)
    took["a node vanished, ten steps later"] = job.steps(10)
    took["its place is given up"] = job.until(lambda: job.said.count("rollout-1 left: 1 at work") == 2)
    job.steps(5)
    job.end()
    took["longest pause since"] = lost = longest_pause_s(job.folder, at)
    print("".join(f"\n  {what}: {seconds:.1f} s" for what, seconds in took.items()))
    assert_nothing_was_lost(job.folder)
    assert calm < 5.0 and lost < 15.0  # until Ray notices that a node is gone, weights are offered to it


def test_a_node_that_is_slow_cut_off_or_killed_delays_the_run_and_costs_nothing_else(nodes, begin):
    cluster = nodes("learner", "rollout")
    job = begin(cluster, "run", *ASYNCHRONOUS)
    job.steps(5)
    first, took = living(job.folder)["rollout-0"], {}
    cluster.freeze(1)
    time.sleep(5)
    cluster.thaw(1)
    took["frozen for 5 s"] = job.steps(5)
    if cluster.wire:
        cluster.wire.cut(1)
        time.sleep(4)
        cluster.wire.heal(1)
        took["cut off for 4 s"] = job.steps(5)
    assert living(job.folder)["rollout-0"] == first, "a node that is only slow is no dead node"
    if cluster.wire:
        cluster.wire.cut(1)
        took["cut off until it counts as dead"] = job.until(lambda: not cluster.lives(1))
        cluster.wire.heal(1)
        cluster.join("rollout")  # its raylet ends when it hears that it is dead; whoever runs the cluster starts another
        took["the engine is back"] = job.until(lambda: living(job.folder).get("rollout-0", first) != first) + job.steps(5)
        second = living(job.folder)["rollout-0"]
        cluster.kill(2)
        cluster.join("rollout")
        took["killed, another node joined, five steps later"] = job.until(lambda: living(job.folder).get("rollout-0", second) != second)
        took["killed, another node joined, five steps later"] += job.steps(5)
        cluster.wire.throttle(3, "4mbit")
        took["on a wire of 4 Mbit/s, five steps"] = job.steps(5)
    job.end()
    print("".join(f"\n  {what}: {seconds:.1f} s" for what, seconds in took.items()))
    assert_nothing_was_lost(job.folder)


def test_the_head_dies_and_the_run_is_continued_bit_for_bit_on_another_cluster(nodes, begin):
    settings = [*SMALL, "run.deterministic=true", "run.steps=16", "checkpoint.every=4"]
    first = nodes("learner", "rollout")
    broken = begin(first, "broken", *settings)
    broken.until(lambda: broken.step >= 6)
    first.kill(0)  # with the driver on it
    first.stop()
    second = nodes("learner", "rollout")
    again = begin(second, "broken", resume=True)
    assert again.process.wait(200) == 0, again.said
    straight = begin(second, "straight", *settings)
    assert straight.process.wait(200) == 0, straight.said
    ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (broken.folder, straight.folder))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert [row["learner/loss"] for row in rows(broken.folder)] == [row["learner/loss"] for row in rows(straight.folder)]


def test_the_driver_ends_in_time_when_the_head_is_gone_and_only_the_driver_is_left(nodes, begin):
    cluster = nodes("learner", "rollout")
    job = begin(cluster, "run", *SMALL, "run.steps=100000", "checkpoint.every=2")
    job.until(lambda: job.step >= 5)
    began = time.monotonic()
    cluster.kill_ray(0)
    code = job.process.wait(150)
    print(f"\n  the driver ended after {time.monotonic() - began:.1f} s with {code}")
    assert code not in (0, 143, 130)
    another = nodes("learner", "rollout")
    again = begin(another, "run", resume=True)
    at = again.step
    again.until(lambda: again.step >= at + 3)
    again.end()
    assert_exact(job.folder, rows(job.folder)[-1]["step"], GROUPS)
