"""Kills roles of a run by the process ids that their logs tell, and reads what came of it from the run folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

from rayrl.telemetry.jsonl import read_metrics


def rows(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [row for row in read_metrics(file) if "learner/loss" in row] if file.exists() else []


def living(folder: Path) -> dict[str, int]:
    """Process by role: the last one that each log names, where it still lives."""
    found = {}
    for log in (folder / "logs").glob("*.log"):
        pids = re.findall(r"^pid (\d+) on ", log.read_text(errors="replace"), flags=re.M)
        if pids and Path(f"/proc/{pids[-1]}").exists():
            found[log.stem] = int(pids[-1])
    return found


class Havoc(threading.Thread):
    """From step ``after`` on kills a random living role whose name begins as one of ``roles``, every ``every_s`` seconds (a range)."""

    def __init__(self, folder: Path, roles: tuple[str, ...], every_s: tuple[float, float], *, after: int = 2, seed: int = 0) -> None:
        super().__init__(daemon=True)
        self._folder, self._roles, self._every_s, self._after = folder, roles, every_s, after
        self._random, self._ended = random.Random(seed), threading.Event()
        self.kills: list[tuple[float, str]] = []
        """Wall-clock time and role."""

    def run(self) -> None:
        while not rows(self._folder) or rows(self._folder)[-1]["step"] < self._after:
            if self._ended.wait(0.2):
                return
        while not self._ended.wait(self._random.uniform(*self._every_s)):
            victims = {role: pid for role, pid in living(self._folder).items() if role.startswith(self._roles)}
            if victims:
                self.kill(self._random.choice(sorted(victims)))

    def kill(self, role: str) -> None:
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(living(self._folder)[role], signal.SIGKILL)
            self.kills.append((time.time(), role))

    def stop(self) -> None:
        self._ended.set()
        self.join(30)


def trained_by_parquet(folder: Path) -> list[int]:
    """The ordinal of every trajectory that a step trained on."""
    found = []
    for part in sorted((folder / "rollouts").glob("*.parquet")):
        table = pq.read_table(part, columns=["ordinal", "reason"])
        found += [o for o, why in zip(table["ordinal"].to_pylist(), table["reason"].to_pylist(), strict=True) if why is None]
    return found


def ledger(folder: Path) -> dict[str, set[int]]:
    """What the last commit says of each prompt: trained, dropped, pending."""
    state = json.loads((sorted((folder / "checkpoints").glob("step-*"))[-1] / "state.json").read_text())
    each = lambda ranges: {o for start, end in ranges for o in range(start, end)}
    ended = {key: each(state["buffer"][key]) for key in ("trained", "dropped")}
    pending = set().union(*(each(ranges) for ranges in state["buffer"]["live"].values()))
    return ended | {"pending": pending, "admitted": set(range(state["position"]))}


def assert_exact(folder: Path, steps: int, groups: int) -> None:
    """Every step done once, every prompt in one place, as many trained as the steps took."""
    found = rows(folder)
    assert [row["step"] for row in found] == list(range(1, steps + 1))
    told = ledger(folder)
    assert len(told["trained"]) == steps * groups
    assert not (told["trained"] & told["dropped"] or told["trained"] & told["pending"] or told["dropped"] & told["pending"])
    assert told["trained"] | told["dropped"] | told["pending"] == told["admitted"]
    assert "did not" not in (folder / "events.jsonl").read_text() and not (folder / "crash.json").exists()


def throughput_back_s(found: list[dict], at: float, window_s: float = 10.0, before_s: float = 40.0) -> float | None:
    """Seconds after ``at`` until the tokens trained on over ``window_s`` are 90 % of those over ``before_s`` before; None if never."""
    tokens = [(row["time"], row["step/tokens_per_s"] * row["step/total_s"]) for row in found]
    rate = lambda start, end: sum(n for t, n in tokens if start < t <= end) / (end - start)
    usual, last = rate(at - before_s, at), tokens[-1][0]
    end = at + window_s
    while end <= last:
        if rate(end - window_s, end) >= 0.9 * usual:
            return end - at
        end += 1.0
    return None
