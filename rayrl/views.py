"""What a person is told of a run, for each kind of policy: facts at the top, one line per step, before and after at the end.

Plain data in, plain data out; the recorder decides when, the console decides how it looks. The view of an environment agent is in
`agent_view.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rayrl.config.loading import Loaded
from rayrl.config.reward_sources import main_component
from rayrl.config.schema import Config
from rayrl.telemetry.bound import step_bound
from rayrl.telemetry.console import LANGUAGE_COLUMNS, Column, Console
from rayrl.types import LearnBatch


class View(Protocol):
    columns: Sequence[Column]
    """Of the table of steps."""

    def facts(self, loaded: Loaded) -> dict[str, str]: ...

    def batch(self, batch: LearnBatch) -> dict[str, float]:
        """Metrics of what a step trained on."""

    def line(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """The cells of `columns`, from a step's metrics."""

    def examined(self, console: Console, result: Mapping[str, Any]) -> None:
        """Prints one evaluation (`Exam.to_json`)."""

    def summary(self, console: Console, first: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        """Prints the first and the last evaluation side by side."""


class LanguageView:
    columns = LANGUAGE_COLUMNS

    def __init__(self, config: Config) -> None:
        self._config = config

    def facts(self, loaded: Loaded) -> dict[str, str]:
        c = loaded.config
        return {
            "recipe": loaded.recipe,
            "model": f"{c.model.path} ({c.model.dtype})",
            "prompts": c.data.source,
            "algorithm": f"{c.algorithm.name}, {c.batch.groups_per_step} prompts x {c.batch.group_size} samples, {c.run.steps} steps",
            "mode": mode(c),
            "folder": c.run.dir,
        }

    def batch(self, batch: LearnBatch) -> dict[str, float]:
        lengths = np.concatenate([g.info.action_tokens for g in batch.groups])
        reasons = [reason for g in batch.groups for reason in g.info.finish_reasons]
        spreads = [np.ptp(g.rewards[g.kept]) == 0 for g in batch.groups if g.kept.any()]
        numbers = group_metrics(batch) | {
            "batch/zero_variance_share": float(np.mean(spreads or [1.0])),
            "rollout/length_mean_tokens": float(lengths.mean()),
            "rollout/length_max_tokens": float(lengths.max()),
            "rollout/truncated_share": float(np.mean([reason == "length" for reason in reasons])),
        }
        main = main_component(self._config)
        correct = np.concatenate([g.components[main][g.kept] for g in batch.groups]) >= self._config.evaluation.threshold
        return numbers | {"batch/accuracy": float(correct.mean()) if correct.size else float("nan")}

    def line(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        return {
            "reward": numbers["reward/mean"],
            "accuracy": numbers["batch/accuracy"],
            "tokens_per_s": numbers["step/tokens_per_s"],
            "staleness": numbers["batch/staleness_mean_versions"],
            "mismatch": numbers.get("mismatch/abs"),
            "kl": numbers.get("kl/reference"),
            "length": numbers["rollout/length_mean_tokens"],
            "seconds": numbers["step/total_s"],
        }

    def examined(self, console: Console, result: Mapping[str, Any]) -> None:
        console.evaluation(result["step"], result["accuracy"], result["count"])

    def summary(self, console: Console, first: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        before, after = ({"all": e["accuracy"]} | e["by_task"] if len(e["by_task"]) > 1 else e["by_task"] for e in (first, last))
        console.before_after(before, after)
        console.samples(f"before, step {first['step']}", first["samples"])
        console.samples(f"after, step {last['step']}", last["samples"])


def table_row(view: View, step: int, target: int, numbers: Mapping[str, float]) -> dict[str, Any]:
    """One line of the table of steps, from the step's metrics."""
    bound = step_bound(numbers)
    return {"step": f"{step}/{target}", "bound": bound.text if bound else ""} | view.line(numbers)


def mode(config: Config) -> str:
    """How rollout and learner take turns, in words."""
    bound = config.buffer.max_staleness
    return "synchronous" if bound == 0 else f"asynchronous, at most {bound} versions stale"


def group_metrics(batch: LearnBatch) -> dict[str, float]:
    """Groups, staleness and reward components of a batch: the same for every kind of policy."""
    staleness = batch.staleness()
    numbers = {
        "batch/groups": float(len(batch.groups)),
        "batch/trajectories": float(batch.num_trajectories),
        "batch/staleness_mean_versions": float(staleness.mean()),
        "batch/staleness_max_versions": float(staleness.max()),
    }
    for name in batch.groups[0].components:
        values = np.concatenate([g.components[name][g.kept] for g in batch.groups])
        numbers[f"reward/{name}"] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return numbers
