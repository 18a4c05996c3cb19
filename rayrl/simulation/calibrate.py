"""Reads the numbers of a `Scenario` off a recorded run: its metrics, its trajectories, its spans."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rayrl.config.loading import reload
from rayrl.config.schema import Config
from rayrl.errors import DataError
from rayrl.run_folder import RunFolder
from rayrl.simulation.scenario import Scenario
from rayrl.telemetry.jsonl import read_metrics

WARM_UP = 2
"""First steps, in which things are compiled and filled, and which count for nothing."""
_FEWEST_STEPS = 5
_OUTLIER = 3.0
"""A step that takes so many times the median was disturbed from outside."""


@dataclass(frozen=True)
class Recorded:
    """A run as it was, and the scenario that it was an instance of."""

    config: Config
    scenario: Scenario
    steps: int
    step_s: float
    """Measured mean of the steps that count."""
    staleness_mean: float


def read_run(folder: str | Path) -> Recorded:
    """Raises `DataError` when the folder holds too little of a run."""
    place = RunFolder(Path(folder))
    if not place.metrics.is_file():
        raise DataError(f"{folder} holds no run: there is no metrics.jsonl", "give the folder that `rayrl train` printed")
    config = reload(folder).config
    rows = [row for row in read_metrics(place.metrics) if "step/total_s" in row]
    usual = float(np.median([row["step/total_s"] for row in rows])) if rows else 0.0
    emptying = config.buffer.max_staleness if rows and rows[-1]["step"] >= config.run.steps else 0
    rows = [row for row in rows[WARM_UP : len(rows) - emptying] if row["step/total_s"] <= _OUTLIER * usual]
    if len(rows) < _FEWEST_STEPS:
        raise DataError(f"{folder} has {len(rows)} usable steps", f"record a run of {_FEWEST_STEPS + WARM_UP} steps or more")
    engines = config.rollout.num_engines
    lengths = _lengths(place, config)
    iteration_s, sequence_s = _decoding(rows, lengths, config)
    export_s = _median_span(place, "export_weights")
    trained, learned = [r["learner/action_tokens"] for r in rows], [max(0.0, r["learner/busy_s"] - export_s) for r in rows]
    learn_s, learn_token_s = line(trained, learned)
    publish_s, pause_s = _mean(rows, "sync/total_s"), _mean(rows, "sync/paused_s")
    waits = sum(_mean(rows, name) for name in ("step/generate_wait_s", "step/learn_s", "step/sync_s"))
    left_s = max(0.0, _mean(rows, "step/total_s") - waits)  # in asynchronous runs most of it is waiting that has no name
    if config.buffer.max_staleness == 0:  # nothing overlaps: what is neither decoding nor waiting for the learner is scoring
        score_s = max(0.0, _mean(rows, "step/generate_wait_s") - _mean(rows, "rollout/busy_s") / engines)
    else:
        score_s = _median_span(place, "score")
    scenario = Scenario(
        groups_per_step=config.batch.groups_per_step,
        max_staleness=config.buffer.max_staleness,
        lengths=lengths,
        engines=engines,
        max_running=config.rollout.max_running,
        iteration_s=iteration_s,
        sequence_s=sequence_s,
        score_s=score_s,
        learn_s=learn_s,
        learn_token_s=learn_token_s,
        export_s=export_s,
        publish_s=max(pause_s, publish_s - export_s),
        pause_s=pause_s,
        driver_s=min(left_s, _mean(rows, "step/driver_cpu_s")),
        paces=list(zip(_paces(learned, [learn_s + learn_token_s * n for n in trained]), _engine_paces(rows), strict=True)),
    )
    return Recorded(config, scenario, len(rows), _mean(rows, "step/total_s"), _mean(rows, "batch/staleness_mean_versions"))


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line, neither negative: what would be becomes 0."""
    (intercept, slope) = _non_negative(np.column_stack([np.ones(len(x)), np.asarray(x, float)]), np.asarray(y, float))
    return intercept, slope


def _decoding(rows: Sequence[dict[str, Any]], lengths: Sequence[Sequence[int]], config: Config) -> tuple[float, float]:
    """Seconds of a decoding step: fixed part, and part of each running sequence.

    Busy seconds of a run step = fixed × decoding steps + per sequence × tokens. Where engines do not count their decoding steps
    (they decode in another process), those are estimated from how many sequences there can be at a time.
    """
    tokens = np.array([row["rollout/tokens"] for row in rows])
    busy = np.array([row["rollout/busy_s"] for row in rows])
    counted = np.array([row.get("rollout/engine_steps", 0.0) for row in rows])
    most = config.rollout.max_running
    if not (counted > 0).all() or (tokens > most * counted).any():
        live = config.batch.groups_per_step * config.batch.group_size * max(1, config.buffer.max_staleness)
        mean, longest = np.mean([n for group in lengths for n in group]), np.mean([max(group) for group in lengths])
        together = min(most, live / config.rollout.num_engines) * mean / longest
        counted = tokens / max(1.0, together)
    fixed, each = _non_negative(np.column_stack([counted, tokens]), busy)
    return fixed, each


def _paces(took: Sequence[float], usual: Sequence[float]) -> list[float]:
    """How many times longer than usual each step took; 1 where nothing is usual."""
    return [seconds / expected if expected > 0 and seconds > 0 else 1.0 for seconds, expected in zip(took, usual, strict=True)]


def _engine_paces(rows: Sequence[dict[str, Any]]) -> list[float]:
    """By their seconds per token, which among steps of one run depend on little else than on how fast the machine was. Tokens are told
    when their sequence ends, so that a step is looked at together with its neighbours."""
    together = np.ones(3)
    tokens, busy = (np.convolve([row[name] for row in rows], together, "same") for name in ("rollout/tokens", "rollout/busy_s"))
    each = busy.sum() / max(1.0, tokens.sum())
    return _paces(busy.tolist(), (each * tokens).tolist())


def _non_negative(a: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares of two columns, coefficients not negative: the best of both free, and either one alone."""
    candidates = [np.linalg.lstsq(a, y, rcond=None)[0]]
    for column in range(2):
        alone = np.zeros(2)
        alone[column] = max(0.0, a[:, column] @ y / max(1e-30, a[:, column] @ a[:, column]))
        candidates.append(alone)
    best = min((c for c in candidates if (c >= 0).all()), key=lambda c: float(((a @ c - y) ** 2).sum()))
    return float(best[0]), float(best[1])


def _lengths(place: RunFolder, config: Config) -> list[list[int]]:
    """Action tokens by group, from the trajectories; without those, every sample has the mean length."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for file in sorted(place.rollouts.glob("*.parquet")):
        table = pq.read_table(file, columns=["step", "ordinal", "action_mask"])
        sizes = [sum(mask) for mask in table["action_mask"].to_pylist()]
        for step, ordinal, size in zip(table["step"].to_pylist(), table["ordinal"].to_pylist(), sizes, strict=True):
            groups[(step, ordinal)].append(size)
    if groups:
        return [groups[key] for key in sorted(groups)]
    rows = [row for row in read_metrics(place.metrics) if "rollout/length_mean_tokens" in row]
    return [[round(_mean(rows, "rollout/length_mean_tokens"))] * config.batch.group_size]


def _median_span(place: RunFolder, name: str) -> float:
    """Seconds; 0 where no spans were recorded."""
    for file, opened in ((place.spans, open), (place.spans.with_suffix(".json.gz"), gzip.open)):
        if file.is_file():
            with opened(file, "rt", encoding="utf-8") as lines:  # type: ignore[operator]
                found = [json.loads(text)["dur"] for line in lines if f'"{name}"' in line and '"X"' in (text := line.strip().rstrip(","))]
            return float(np.median(found)) / 1e6 if found else 0.0
    return 0.0


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    values = [row[name] for row in rows if name in row]
    return float(np.mean(values)) if values else 0.0
