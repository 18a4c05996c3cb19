"""Recipes side by side under one budget of sampled tokens: a table and a picture of means and spreads over seeds.

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
_GRID = 40
"""Points of a curve in the picture."""


@dataclass(frozen=True)
class Outcome:
    """One finished run. Curves run over its steps."""

    recipe: str
    seed: int
    before: float
    after: float
    """Held-out accuracy before the first and after the last step: always the evaluated component, never a proxy."""
    tokens: int
    """Action tokens sampled, evaluations included."""
    wall_s: float
    steps: int
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
    runs: int
    failed: int
    before: float
    after: float
    spread: float
    reward: float
    """Mean aggregated reward at the end."""
    tokens: float
    wall_s: float
    rewards: Mapping[str, float]


def compare(
    recipes: Sequence[str],
    *,
    seeds: int,
    tokens: int,
    out: Path,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    limit_s: float = 7200.0,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Runs every recipe with the seeds 0 … seeds-1 until ``tokens`` are sampled; writes `TABLE` and `PICTURE` into ``out``.

    ``limit_s``: longest one run may take. Raises `ConfigError` before anything starts for a recipe that cannot run, or that is named
    twice. A run that fails is counted in its row and its last words are said.
    """
    if len(set(recipes)) != len(recipes):
        raise ConfigError(f"a recipe is named twice in {', '.join(recipes)}", "name each once; --seeds repeats it")
    for recipe in recipes:
        load(recipe, [*overrides, f"run.tokens={tokens}"], profile=profile)
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    failed = dict.fromkeys(recipes, 0)
    for seed in range(seeds):  # seed by seed, so that an early look sees all recipes
        for recipe in recipes:
            folder = out / recipe.replace("/", "_") / f"seed-{seed}"
            found = _finished(folder, tokens) or _run(recipe, seed, tokens, folder, overrides, profile, limit_s, say)
            if found is None:
                failed[recipe] += 1
            else:
                outcomes.append(found)
                say(f"{recipe}, seed {seed}: {found.before:.1%} -> {found.after:.1%}, {found.tokens:,} tokens, {found.wall_s:.0f} s")
    rows = [_row(recipe, [o for o in outcomes if o.recipe == recipe], failed[recipe]) for recipe in recipes]
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
    evaluated = [row["eval/accuracy"] for row in rows if row.get("eval/accuracy") is not None]
    if len(evaluated) < 2:
        raise ConfigError(f"{folder} was not evaluated before and after training", "set evaluation.enabled=true")
    steps = [row for row in rows if "learner/loss" in row]
    last = steps[-max(1, len(steps) // 10) :]
    names = [key for key in steps[-1] if key.startswith("reward/") and key != "reward/std"]
    used = [int(row["rollout/tokens"]) for row in steps]
    return Outcome(
        recipe,
        seed,
        evaluated[0],
        evaluated[-1],
        sum(used),
        wall_s,
        len(steps),
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


def _run(
    recipe: str,
    seed: int,
    tokens: int,
    folder: Path,
    overrides: Sequence[str],
    profile: str | None,
    limit_s: float,
    say: Callable[[str], None],
) -> Outcome | None:
    set_aside(folder)
    started = time.monotonic()
    own = [*overrides, f"run.seed={seed}", f"run.tokens={tokens}"]
    if not run_process(recipe, own, folder, profile=profile, limit_s=limit_s, say=say):
        return None
    found = outcome(recipe, seed, folder, time.monotonic() - started)
    (folder / RESULT).write_text(json.dumps({"budget": tokens, "outcome": asdict(found)}) + "\n", "utf-8")
    return found


def set_aside(folder: Path) -> None:
    """Makes room where a run did not finish."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.unfinished-{time.time_ns()}"))
    folder.parent.mkdir(parents=True, exist_ok=True)


def run_process(
    recipe: str, overrides: Sequence[str], folder: Path, *, profile: str | None, limit_s: float, say: Callable[[str], None]
) -> bool:
    """`rayrl train` as a process of its own, its words in ``folder``.log. False, and its last words said, when it failed."""
    own = [f"run.dir={folder}", "checkpoint.export=false", "telemetry.wandb=off"]
    command = [sys.executable, "-m", "rayrl", "train", recipe, *overrides, *own, *(["--profile", profile] if profile else [])]
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        try:
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=limit_s, env=os.environ, check=False).returncode
        except subprocess.TimeoutExpired:
            status = -1
    if status != 0:
        words = " / ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
        why = f"it took longer than {limit_s:.0f} s" if status == -1 else f"exit status {status}"
        say(f"{recipe}, {folder.name}: failed ({why}), see {log}: {words}")
        return False
    return True


def _finished(folder: Path, tokens: int) -> Outcome | None:
    """The outcome of an earlier run under the same budget."""
    try:
        saved: dict[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return Outcome(**saved["outcome"]) if saved.get("budget") == tokens else None


def _row(recipe: str, runs: Sequence[Outcome], failed: int) -> Row:
    if not runs:
        nothing = float("nan")
        return Row(recipe, 0, failed, nothing, nothing, nothing, nothing, nothing, nothing, {})
    mean = lambda values: statistics.fmean(values)
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
        mean([o.wall_s for o in runs]),
        {name: mean([o.rewards[name] for o in runs]) for name in names if name != "mean"},
    )
