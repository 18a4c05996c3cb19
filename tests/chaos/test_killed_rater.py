"""kill -9 of an env worker, then of the role that rates its messages: training is as fast as before soon after, and ends as it should.

python -m pytest tests/chaos/test_killed_rater.py -m slow      # two minutes
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread

import pytest
from havoc import Havoc, rows

from rayrl import driver
from rayrl.config.loading import load
from tests.standin.process import standin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CALM_S, BACK_S = 20.0, 15.0
"""How long speed is measured over, and how long it may take to come back."""
VICTIMS = ("rollout-1", "reward_model-messages")


def rate(folder: Path, start: float, end: float) -> float:
    """Frames per second of wall-clock time between two moments."""
    found = [row for row in rows(folder) if start <= row["time"] <= end]
    return (found[-1]["agent/frames"] - found[0]["agent/frames"]) / (found[-1]["time"] - found[0]["time"])


class Killer(Thread):
    """Kills each victim after a calm while; `speeds` has the rates before and after each death."""

    def __init__(self, folder: Path, told: list[int]) -> None:
        super().__init__(daemon=True)
        self._folder, self._told, self._havoc = folder, told, Havoc(folder, VICTIMS, (1e9, 1e9))
        self.speeds: dict[str, tuple[float, float]] = {}

    def run(self) -> None:
        while not rows(self._folder) or rows(self._folder)[-1].get("intrinsic/version", 0) < 2:
            time.sleep(0.2)
        time.sleep(BACK_S)
        for victim in VICTIMS:
            began = time.time()
            time.sleep(CALM_S)
            before = rate(self._folder, began, time.time())
            self._havoc.kill(victim)
            time.sleep(BACK_S)
            began = time.time()
            time.sleep(CALM_S)
            self.speeds[victim] = before, rate(self._folder, began, time.time())
        self._told.append(rows(self._folder)[-1]["step"] + 4)


def test_speed_is_back_in_fifteen_seconds_after_an_env_worker_and_a_rater_are_killed(tmp_path, monkeypatch):
    from rayrl.run import Run

    folder, told = tmp_path / "run", list[int]()
    monkeypatch.setattr(Run, "target", property(lambda run: told[0] if told else run.config.run.steps))
    with standin() as judge:
        quiet = ["telemetry.wandb=off", "telemetry.report=false", "evaluation.enabled=false", "checkpoint.export=false"]
        killer = Killer(folder, told)
        killer.start()
        driver.train(load("oni_chain_classification", [f"run.dir={folder}", f"feedback.base_url={judge.url}", "run.steps=100000", *quiet]))
    killer.join(10)
    assert [name for _, name in killer._havoc.kills] == list(VICTIMS)
    print({victim: [round(speed) for speed in speeds] for victim, speeds in killer.speeds.items()})
    for victim, (before, after) in killer.speeds.items():
        assert after >= 0.9 * before, f"{victim}: {before:.0f} frames/s before, {after:.0f} after"
    versions = [row["intrinsic/version"] for row in rows(folder)]
    assert versions == sorted(versions) and versions[-1] > 2, "what was learned is kept, and learning goes on"
