"""Recipes side by side under one budget of sampled tokens: a table and a picture of means and spreads over seeds.

An arm is a recipe with settings of its own; `rayrl compare` makes one of each recipe, `study` one of each cell of a table.

Every run is a process of its own (`python -m rayrl train`), one after the other, so that nothing of one run touches another. A run
that is finished in the output folder is not repeated: a comparison that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayrl.config.loading import load
from rayrl.errors import ConfigError
from rayrl.telemetry.jsonl import read_metrics

RESULT, TABLE, PICTURE = "result.json", "comparison.json", "comparison.png"
_EXAM = "eval/"
_GRID = 40
"""Points of a curve in the picture."""


@dataclass(frozen=True)
class Arm:
    """What is compared with others."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """How the runs are made that are to be put beside one another: each with the seeds 0 … seeds-1, one after the other."""

    seeds: int
    out: Path
    overrides: Sequence[str] = ()
    """Of all runs; those of an arm come after them."""
    profile: str | None = None
    limit_s: float = 7200.0
    """Longest that one run may take."""
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Outcome:
    """One finished run. Curves run over its steps."""

    recipe: str
    """Name of its arm."""
    seed: int
    before: float
    after: float
    """Held-out accuracy before the first and after the last step: always the evaluated component, never a proxy."""
    tokens: int
    """Action tokens sampled, evaluations included."""
    wall_s: float
    labels: int
    """Answers that were scored to be trained on."""
    steps: int
    exams: tuple[Mapping[str, float], Mapping[str, float]]
    """All that was measured on held-out prompts before the first and after the last step, without the prefix ``eval/``."""
    rewards: Mapping[str, float]
    """Mean of each reward component over the last tenth of the steps."""
    at_tokens: Sequence[int]
    accuracy: Sequence[float]
    """Training accuracy by step."""
    reward: Sequence[float]
    """Mean aggregated reward by step: what the policy was trained on."""


@dataclass(frozen=True)
class Row:
    """One recipe over its seeds: means, and sample standard deviations (0 for one seed)."""

    recipe: str
    """Name of the arm."""
    runs: int
    failed: int
    before: float
    after: float
    spread: float
    reward: float
    """Mean aggregated reward at the end."""
    tokens: float
    labels: float
    wall_s: float
    rewards: Mapping[str, float]
    exams: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
    by_seed: tuple[float, ...] = ()
    """``after`` of each run."""


def compare(arms: Sequence[Arm], series: Series, *, tokens: int) -> list[Row]:
    """Runs every arm until ``tokens`` are sampled; writes `TABLE` and `PICTURE` into the folder of the series.

    Raises `ConfigError` before anything starts for an arm that cannot run, or that is named twice. A run that fails is counted in its
    row and its last words are said.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ConfigError(f"a recipe is named twice in {', '.join(names)}", "name each once; --seeds repeats it")
    for arm in arms:
        load(arm.recipe, [*series.overrides, *arm.overrides, f"run.tokens={tokens}"], profile=series.profile)
    out, say = series.out, series.say
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    failed = dict.fromkeys(names, 0)
    for seed in range(series.seeds):  # seed by seed, so that an early look sees all of them
        for arm in arms:
            own = [*series.overrides, *arm.overrides, f"run.seed={seed}", f"run.tokens={tokens}"]
            found = _outcome_of(arm, seed, own, out / arm.name.replace("/", "_").replace(" ", "_") / f"seed-{seed}", series)
            if found is None:
                failed[arm.name] += 1
            else:
                outcomes.append(found)
                say(f"{arm.name}, seed {seed}: {found.before:.1%} -> {found.after:.1%}, {found.tokens:,} tokens, {found.wall_s:.0f} s")
    rows = [_row(name, [o for o in outcomes if o.recipe == name], failed[name]) for name in names]
    (out / TABLE).write_text(json.dumps({"tokens": tokens, "rows": [asdict(r) for r in rows]}, indent=1) + "\n", "utf-8")
    if outcomes:
        try:
            draw(outcomes, out / PICTURE)
        except ImportError:
            say(f"no picture: matplotlib is not installed (pip install 'rayrl[report]'); {TABLE} holds the numbers")
    return rows


def outcome(recipe: str, seed: int, folder: Path, wall_s: float) -> Outcome:
    """What a finished run folder says. Raises `ConfigError` where it holds no evaluation."""
    rows = read_metrics(folder / "metrics.jsonl")
    exams = [
        {key.removeprefix(_EXAM): value for key, value in row.items() if key.startswith(_EXAM) and value is not None}
        for row in rows
        if row.get("eval/accuracy") is not None
    ]
    if len(exams) < 2:
        raise ConfigError(f"{folder} was not evaluated before and after training", "set evaluation.enabled=true")
    steps = [row for row in rows if "learner/loss" in row]
    last = steps[-max(1, len(steps) // 10) :]
    names = [key for key in steps[-1] if key.startswith("reward/") and key != "reward/std"]
    used = [int(row["rollout/tokens"]) for row in steps]
    return Outcome(
        recipe,
        seed,
        exams[0]["accuracy"],
        exams[-1]["accuracy"],
        sum(used),
        wall_s,
        sum(int(row["batch/trajectories"]) for row in steps),
        len(steps),
        (exams[0], exams[-1]),
        {key.removeprefix("reward/"): statistics.fmean(row[key] for row in last if row[key] is not None) for key in names},
        [sum(used[: i + 1]) for i in range(len(used))],
        [row["batch/accuracy"] or 0.0 for row in steps],
        [row["reward/mean"] for row in steps],
    )


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Two panels over sampled tokens: true accuracy, and the reward that was trained on; lines are means, bands least to most."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for recipe in dict.fromkeys(o.recipe for o in outcomes):
        runs = [o for o in outcomes if o.recipe == recipe]
        grid = np.linspace(max(o.at_tokens[0] for o in runs), min(o.at_tokens[-1] for o in runs), _GRID)
        for panel, field in zip(panels, ("accuracy", "reward"), strict=True):
            curves = np.stack([np.interp(grid, o.at_tokens, _smooth(getattr(o, field))) for o in runs])
            (line,) = panel.plot(grid, curves.mean(0), label=recipe)
            panel.fill_between(grid, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    for panel, title in zip(panels, ("true accuracy (training prompts)", "reward that is trained on"), strict=True):
        panel.set(title=title, xlabel="tokens sampled")
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _smooth(values: Sequence[float], window: int = 5) -> list[float]:
    """Mean of the last ``window`` values."""
    return [statistics.fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def _outcome_of(arm: Arm, seed: int, overrides: Sequence[str], folder: Path, series: Series) -> Outcome | None:
    """Of an earlier run with the same settings, else of a new one; None where that failed."""
    identity = {"recipe": arm.recipe, "overrides": list(overrides), "profile": series.profile}
    saved = _finished(folder, identity)
    if saved is not None:
        return saved
    set_aside(folder)
    started = time.monotonic()
    if not run_process(arm.recipe, overrides, folder, series):
        return None
    found = outcome(arm.name, seed, folder, time.monotonic() - started)
    (folder / RESULT).write_text(json.dumps({"of": identity, "outcome": asdict(found)}) + "\n", "utf-8")
    return found


def set_aside(folder: Path) -> None:
    """Makes room where a run did not finish."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.unfinished-{time.time_ns()}"))
    folder.parent.mkdir(parents=True, exist_ok=True)


def run_process(recipe: str, overrides: Sequence[str], folder: Path, series: Series) -> bool:
    """`rayrl train` as a process of its own, its words in ``folder``.log. False, and its last words said, when it failed."""
    own = [f"run.dir={folder}", "checkpoint.export=false", "telemetry.wandb=off"]
    command = [sys.executable, "-m", "rayrl", "train", recipe, *overrides, *own, *(["--profile", series.profile] if series.profile else [])]
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        try:
            status = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=series.limit_s, env=os.environ, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    if status != 0:
        words = " / ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
        why = f"it took longer than {series.limit_s:.0f} s" if status == -1 else f"exit status {status}"
        series.say(f"{recipe}, {folder.name}: failed ({why}), see {log}: {words}")
        return False
    return True


def _finished(folder: Path, identity: Mapping[str, Any]) -> Outcome | None:
    try:
        saved: dict[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return Outcome(**saved["outcome"]) if saved.get("of") == identity else None


def _row(recipe: str, runs: Sequence[Outcome], failed: int) -> Row:
    if not runs:
        nothing = float("nan")
        return Row(recipe, 0, failed, nothing, nothing, nothing, nothing, nothing, nothing, nothing, {})
    mean = lambda values: statistics.fmean(values)
    means = lambda exams: {name: mean([e[name] for e in exams]) for name in exams[0] if all(name in e for e in exams)}
    after = [o.after for o in runs]
    names = runs[0].rewards.keys()
    return Row(
        recipe,
        len(runs),
        failed,
        mean([o.before for o in runs]),
        mean(after),
        statistics.stdev(after) if len(after) > 1 else 0.0,
        mean([o.rewards["mean"] for o in runs]),
        mean([o.tokens for o in runs]),
        mean([o.labels for o in runs]),
        mean([o.wall_s for o in runs]),
        {name: mean([o.rewards[name] for o in runs]) for name in names if name != "mean"},
        (means([o.exams[0] for o in runs]), means([o.exams[1] for o in runs])),
        tuple(after),
    )
