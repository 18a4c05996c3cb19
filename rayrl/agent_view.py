"""What a person is told of an environment agent's run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayrl.config.loading import Loaded
from rayrl.config.schema import Config
from rayrl.telemetry.console import AGENT_COLUMNS, Console
from rayrl.types import LearnBatch
from rayrl.views import group_metrics, mode


class AgentView:
    """Fulfils `views.View`."""

    columns = AGENT_COLUMNS

    def __init__(self, config: Config) -> None:
        self._agent = config.agent

    def facts(self, loaded: Loaded) -> dict[str, str]:
        c, a = loaded.config, loaded.config.agent
        frames = a.envs_per_worker * a.fragment_length
        inner = "" if a.intrinsic.kind == "none" else f" + {a.intrinsic.coef:g} x {a.intrinsic.kind} x N^-{a.intrinsic.count_exponent:g}"
        return {
            "recipe": loaded.recipe,
            "environment": f"{a.env}, {a.workers} workers x {a.envs_per_worker}",
            "network": f"{a.network.size} ({c.model.dtype} in the learner)",
            "reward": f"{a.extrinsic_coef:g} x extrinsic{inner}",
            "algorithm": f"{a.credit}, {c.batch.groups_per_step} fragments x {frames} frames, {c.run.steps} steps",
            "mode": mode(c),
            "folder": c.run.dir,
        }

    def batch(self, batch: LearnBatch) -> dict[str, float]:
        return group_metrics(batch)

    def line(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        return {
            "return": numbers.get("episode/return"),
            "success": numbers.get("episode/success"),
            "intrinsic": numbers["reward/intrinsic_part"] if self._agent.intrinsic.kind != "none" else None,
            "frames_per_s": numbers["step/tokens_per_s"],
            "staleness": numbers["batch/staleness_mean_versions"],
            "mismatch": numbers.get("mismatch/abs"),
            "entropy": numbers["policy/entropy"],
            "length": numbers.get("episode/length"),
            "seconds": numbers["step/total_s"],
        }

    def examined(self, console: Console, result: Mapping[str, Any]) -> None:
        counts = "".join(f", {name} {value:.3g}" for name, value in result["sums"].items())
        console.say(f"step {result['step']}: mean return {result['mean_return']:.3f}{counts} over {result['count']} episodes")

    def summary(self, console: Console, first: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        before = {"return": first["mean_return"], "length": first["mean_length"]} | first["sums"]
        after = {"return": last["mean_return"], "length": last["mean_length"]} | last["sums"]
        changes = {name: f"{before.get(name, float('nan')):.3f} → {value:.3f}" for name, value in after.items()}
        console.facts({f"step {first['step']} → {last['step']}": f"{last['count']} episodes"} | changes)
