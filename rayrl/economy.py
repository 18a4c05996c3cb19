"""What labels are worth: accuracy or return against the number of labels, over finished runs, as a table and a picture.

A run is read from its folder alone, so runs of language models and of environment agents stand in one report. `sweep` makes such
runs: one recipe under several label budgets and seeds, each run a process of its own.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from rayrl.compare import Series, run_process, set_aside
from rayrl.config.loading import load
from rayrl.errors import ConfigError
from rayrl.run_folder import RunFolder
from rayrl.telemetry.jsonl import read_metrics

TABLE, PICTURE = "labels.json", "labels.png"
_MEASURES = ("eval/accuracy", "eval/episode/success", "eval/return")
"""What a run is judged by: the first of these that it has."""


@dataclass(frozen=True)
class Spent:
    """One run: what it had asked and how good it was, at every evaluation."""

    name: str
    """Recipe."""
    budget: int | None
    seed: int
    measure: str
    """Metric that `scores` are of."""
    labels: Sequence[float]
    """Labels that the run had, at each evaluation."""
    scores: Sequence[float]
    tokens: float
    """Of the judge, prompts and answers."""
    cost_usd: float


@dataclass(frozen=True)
class Row:
    """The runs of one recipe under one budget: means, and the sample standard deviation over seeds (0 for one run)."""

    name: str
    budget: int | None
    runs: int
    measure: str
    labels: float
    before: float
    after: float
    spread: float
    tokens: float
    cost_usd: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def read(folder: Path) -> Spent:
    """Raises `ConfigError` for a folder without a judged run that was evaluated before and after."""
    run = RunFolder(folder.absolute())
    settings = run.path / "config.yaml"
    if not run.metrics.is_file() or not settings.is_file():
        raise ConfigError(f"{folder} holds no run", "name the folders that `rayrl train` printed")
    rows = read_metrics(run.metrics)
    measure = next((m for m in _MEASURES if any(row.get(m) is not None for row in rows)), None)
    if measure is None or not any("feedback/labelled_count" in row for row in rows):
        raise ConfigError(
            f"{folder}: no evaluation, or no labels of a judge", "evaluation.enabled=true, and a recipe with feedback.judge, give both"
        )
    labels, tokens, usd = 0.0, 0.0, 0.0
    points: list[tuple[float, float]] = []
    for row in rows:
        labels, tokens = row.get("feedback/labelled_count", labels), row.get("feedback/tokens", tokens)
        usd = row.get("feedback/cost_usd", usd)
        if row.get(measure) is not None:
            points.append((labels, row[measure]))
    if len(points) < 2:
        raise ConfigError(f"{folder} was evaluated once", "evaluate before and after training: evaluation.enabled=true")
    config = yaml.safe_load(settings.read_text(encoding="utf-8"))
    status = json.loads(run.status.read_text(encoding="utf-8")) if run.status.is_file() else {}
    name = status.get("recipe") or config["run"]["name"]
    budget = config["feedback"]["budget"].get("labels")
    return Spent(name, budget, config["run"]["seed"], measure, [p[0] for p in points], [p[1] for p in points], tokens, usd)


def table(runs: Sequence[Spent]) -> list[Row]:
    """By recipe and budget, the smaller budget first."""
    by: dict[tuple[str, int | None, str], list[Spent]] = {}
    for run in runs:
        by.setdefault((run.name, run.budget, run.measure), []).append(run)
    order = sorted(by, key=lambda key: (key[0], key[2], key[1] is None, key[1] or 0))
    return [_row(*key, by[key]) for key in order]


def report(folders: Sequence[Path], out: Path, say: Callable[[str], None] = print) -> list[Row]:
    """Reads finished runs and writes `TABLE` and `PICTURE` into ``out``."""
    runs = [read(folder) for folder in folders]
    rows = table(runs)
    out.mkdir(parents=True, exist_ok=True)
    content = {"rows": [asdict(r) for r in rows], "runs": [asdict(r) for r in runs]}
    (out / TABLE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    try:
        draw(runs, out / PICTURE)
    except ImportError:
        say(f"no picture: matplotlib is not installed (pip install 'rayrl[report]'); {TABLE} holds the numbers")
    return rows


def sweep(recipe: str, budgets: Sequence[int], series: Series) -> tuple[list[Path], int]:
    """Trains ``recipe`` under every budget with every seed of ``series``; returns the folders of runs that finished, and how many did not.

    A run that is finished in its folder is not repeated. Raises `ConfigError` before anything starts for a recipe that cannot run.
    """
    for budget in budgets:
        load(recipe, [*series.overrides, f"feedback.budget.labels={budget}"], profile=series.profile)
    found, failed = [], 0
    for seed in range(series.seeds):  # seed by seed, so that an early look sees all budgets
        for budget in budgets:
            folder = series.out / recipe.replace("/", "_") / f"labels-{budget}" / f"seed-{seed}"
            if not _finished(folder):
                set_aside(folder)
                settings = [*series.overrides, f"feedback.budget.labels={budget}", f"run.seed={seed}"]
                if not run_process(recipe, settings, folder, series):
                    failed += 1
                    continue
            found.append(folder)
            run = read(folder)
            series.say(
                f"{recipe}, {budget} labels, seed {seed}: {run.scores[0]:.3f} -> {run.scores[-1]:.3f} with {run.labels[-1]:.0f} labels"
            )
    return found, failed


def draw(runs: Sequence[Spent], path: Path) -> None:
    """Left what a run was worth in the end against all its labels, right how each run went; one row of panels for each measure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measures = list(dict.fromkeys(r.measure for r in runs))
    figure, panels = plt.subplots(len(measures), 2, figsize=(11, 4.2 * len(measures)), layout="constrained", squeeze=False)
    for measure, (ends, ways) in zip(measures, panels, strict=True):
        some = [r for r in runs if r.measure == measure]
        for name in dict.fromkeys(r.name for r in some):
            rows = sorted((r for r in table(some) if r.name == name), key=lambda r: r.labels)
            bars = ends.errorbar(
                [r.labels for r in rows], [r.after for r in rows], [r.spread for r in rows], marker="o", capsize=3, label=name
            )
            color = bars.lines[0].get_color()
            for run in (r for r in some if r.name == name):
                ways.plot(run.labels, run.scores, color=color, alpha=0.5, linewidth=1)
        start = statistics.fmean(r.scores[0] for r in some)
        for panel in (ends, ways):
            panel.axhline(start, color="grey", linestyle=":", linewidth=1)
            panel.set(xlabel="labels of the judge", ylabel=measure)
            panel.set_xscale("symlog", linthresh=100)
            panel.set_xlim(0, 1.3 * max(1.0, *(max(run.labels) for run in some)))
            panel.grid(alpha=0.3)
        ends.set_title("at the end of a run (mean ± deviation over seeds)")
        ways.set_title("while it ran (one line per run)")
        ends.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _row(name: str, budget: int | None, measure: str, runs: Sequence[Spent]) -> Row:
    after = [r.scores[-1] for r in runs]
    mean = lambda values: statistics.fmean(values)
    return Row(
        name,
        budget,
        len(runs),
        measure,
        mean([r.labels[-1] for r in runs]),
        mean([r.scores[0] for r in runs]),
        mean(after),
        statistics.stdev(after) if len(after) > 1 else 0.0,
        mean([r.tokens for r in runs]),
        mean([r.cost_usd for r in runs]),
    )


def _finished(folder: Path) -> bool:
    try:
        return json.loads((folder / "status.json").read_text("utf-8"))["state"] == "finished"
    except (OSError, ValueError, KeyError):
        return False
