"""Which curves a report draws, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayrl.report.folder import RunData
from rayrl.report.index import Index
from rayrl.telemetry.metrics import FAMILIES, METRICS, Metric


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str
    """``share`` is shown in percent."""
    lines: list[tuple[str, str]]
    """(key of the series, label at its end)."""
    note: str = ""
    section: str = "learning"
    log: bool = False


_CHARTS = (
    Chart("Return", "", [("eval/return", "examined"), ("episode/return", "while training")], "of an episode, the environment's own reward"),
    Chart("Success", "share", [("eval/episode/success", "examined"), ("episode/success", "while training")], "of episodes"),
    Chart("Reward", "", [("reward/mean", "reward")], "mean of the samples trained on"),
    Chart("Accuracy while training", "share", [("batch/accuracy", "batch")]),
    Chart("Distance to the reference", "nats", [("kl/reference", "reference")]),
    Chart("Entropy", "nats", [("policy/entropy", "entropy")], "per action token"),
    Chart("Length", "tokens", [("length/p50", "median"), ("length/p99", "99th percentile")], "action tokens of a sample"),
    Chart("Advantage", "", [("advantage/std", "spread"), ("advantage/abs_max", "largest")]),
    Chart(
        "Groups that teach nothing", "share", [("batch/zero_variance_share", "all rewards equal"), ("rollout/truncated_share", "cut off")]
    ),
    Chart("Gradient norm", "", [("learner/grad_norm", "norm")], "before clipping"),
    Chart("Value model", "", [("value/explained_variance", "explained variance")]),
    Chart(
        "Engine against learner",
        "nats",
        [("mismatch/abs", "mean"), ("gap/p99", "99th percentile")],
        "distance of log-probs",
        "health",
        True,
    ),
    Chart("Staleness", "versions", [("batch/staleness_mean_versions", "mean"), ("batch/staleness_max_versions", "largest")], "", "health"),
    Chart("Clipped tokens", "share", [("policy/clip_high", "above"), ("policy/clip_low", "below")], "", "health"),
    Chart("Off-policy weights", "", [("correction/weight", "mean weight"), ("correction/changed", "changed")], "", "health"),
    Chart("Failed scores", "samples", [("rewards/failed_count", "failed")], "per step", "health"),
    Chart("Throughput", "tokens/s", [("step/tokens_per_s", "trained"), ("learner/tokens_per_s", "learner alone")], "", "speed"),
    Chart("One step", "s", [("step/total_s", "whole"), ("step/generate_wait_s", "rollouts"), ("step/learn_s", "learner")], "", "speed"),
    Chart("Cost of judges", "$", [("cost/total_usd", "of records"), ("feedback/cost_usd", "of labels")], "so far", "speed"),
    Chart("Labels", "questions", [("feedback/labelled_count", "labelled"), ("feedback/backlog_questions", "waiting")], "", "speed"),
)
_RESERVED = {"reward/mean", "reward/std"}


def series(run: RunData, index: Index | None, cost: dict[int, float]) -> dict[str, list[list[float | None]]]:
    """``[steps, values]`` by key: every metric of the run, and a few that follow from its trajectories (length/*, gap/*, cost/*)."""
    found: dict[str, list[list[float | None]]] = {}
    for row in run.metrics:
        for key, value in row.items():
            if key not in ("step", "time") and isinstance(value, int | float):
                steps, values = found.setdefault(key, [[], []])
                steps.append(row["step"])
                values.append(float(f"{value:.5g}"))
    if index is not None and len(index):
        found |= _of_trajectories(index)
    if any(cost.values()):
        steps = sorted(cost)
        found["cost/total_usd"] = [list(steps), np.round(np.cumsum([cost[s] for s in steps]), 6).tolist()]
    return found


def charts(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The charts for which any run has numbers; reward components and held-out tasks are found by their names."""
    keys = {key for found in runs for key in found}
    tasks = sorted(key for key in keys if key.startswith("eval/") and key.endswith("/accuracy") and key.count("/") > 1)
    chosen = []
    if "eval/accuracy" in keys:
        lines = [("eval/accuracy", "held-out")] if len(tasks) < 2 else [(key, key.split("/")[1]) for key in tasks]
        chosen.append(Chart("Held-out accuracy", "share", lines, "prompts the policy is never trained on"))
    components = sorted(key for key in keys if key.startswith("reward/") and key not in _RESERVED)
    chosen += [chart for chart in _CHARTS if any(key in keys for key, _ in chart.lines)]
    if len(components) > 1:
        place = next((i + 1 for i, chart in enumerate(chosen) if chart.title == "Reward"), 0)
        chosen.insert(place, Chart("Reward components", "", [(key, key.removeprefix("reward/")) for key in components], "before weighting"))
    shown = {key for chart in chosen for key, _ in chart.lines} | set(tasks)
    for key in sorted(keys - shown):
        if not key.startswith(("memory/", "buffer/staleness/")):
            metric = describe(key)
            chosen.append(Chart(key, metric.unit, [(key, "")], metric.description, "more"))
    return [asdict(chart) | {"lines": [line for line in chart.lines if line[0] in keys]} for chart in chosen]


def describe(key: str) -> Metric:
    """Unit and meaning of a metric, also of families."""
    if key in METRICS:
        return METRICS[key]
    return next((metric for prefix, metric in FAMILIES.items() if key.startswith(prefix)), Metric("", ""))


def _of_trajectories(index: Index) -> dict[str, list[list[float | None]]]:
    trained = index.trained
    steps, length, gap = index.numbers["step"][trained], index.numbers["length"][trained], index.numbers["gap"][trained]
    found: dict[str, list[list[float | None]]] = {"length/p50": [[], []], "length/p99": [[], []], "gap/p99": [[], []]}
    order = np.argsort(steps, kind="stable")
    edges = np.flatnonzero(np.diff(steps[order])) + 1
    for rows in np.split(order, edges) if len(order) else []:
        step = int(steps[rows[0]])
        middle, tail = np.percentile(length[rows], [50, 99])
        for key, value in (("length/p50", middle), ("length/p99", tail)):
            found[key][0].append(step)
            found[key][1].append(round(float(value), 2))
        known = gap[rows][~np.isnan(gap[rows])]
        if len(known):
            found["gap/p99"][0].append(step)
            found["gap/p99"][1].append(float(f"{np.percentile(known, 99):.4g}"))
    return {key: pair for key, pair in found.items() if pair[0]}
