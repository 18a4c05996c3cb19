"""Held-out accuracy of a checkpoint, without a run: one engine, one verifier pool, this process, no Ray."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from rayrl import assembly
from rayrl.config.loading import Loaded
from rayrl.config.reward_sources import main_component
from rayrl.errors import ConfigError
from rayrl.evaluation import held_out
from rayrl.evaluation.held_out import Evaluation
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.local import LocalRuntime
from rayrl.workload import load_prompts


def evaluate_checkpoint(loaded: Loaded, checkpoint: Path | str) -> Evaluation:
    """Evaluates ``checkpoint`` (a folder or hub name) on the held-out prompts of a recipe, with the recipe's own sampling.

    Raises `ModelError` when it is no model, `ConfigError` when the recipe has nothing to evaluate.
    """
    config = replace(loaded.config, model=replace(loaded.config.model, path=str(checkpoint)))
    _, prompts = load_prompts(config)
    if not prompts:
        raise ConfigError("data.eval_size is 0: there is nothing to evaluate", "set data.eval_size or data.eval_source")
    main = main_component(config)
    if config.rewards.components[main].verifier is None:
        raise ConfigError(
            f"evaluation.component is {main!r}, which no verifier scores", "name a component with a verifier, e.g. one of weight 0"
        )
    runtime, limit = LocalRuntime(config.deadlines.call_s), config.deadlines.generate_s
    shared = {"config": config, "store": runtime.store}
    place = tempfile.TemporaryDirectory(prefix="rayrl-eval-")
    try:
        [buffer] = runtime.start([RoleSpec("buffer", assembly.build_buffer, shared | {"journal": Path(place.name) / "journal"})], limit)
        named = shared | {"buffer": buffer}
        engine, scorer = runtime.start(
            [
                RoleSpec("rollout-0", assembly.build_rollout, named | {"name": "rollout-0", "index": 0, "transport": "store"}),
                RoleSpec("scorer-0", assembly.build_scorer, named | {"name": "scorer-0"}),
            ],
            config.deadlines.start_s,
        )
        loop = engine.submit("run")
        trajectories = engine.submit("rollout", held_out.tasks(config, prompts), limit).result(limit)
        result = held_out.evaluate(config, 0, trajectories, scorer.score)
        engine.stop()
        loop.result(config.deadlines.drain_s)
        return result
    finally:
        runtime.shutdown()
        place.cleanup()
