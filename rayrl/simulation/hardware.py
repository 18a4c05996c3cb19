"""Estimates a `Scenario` for GPUs that nobody has measured yet, from the model's size and the data sheet (a roofline).

Decoding reads all weights once per step and each sequence's key/value cache, and computes 2 FLOPs per parameter and token;
learning computes 6, or 8 with recomputed activations (Kaplan et al. 2020, section 2.1; Korthikanti et al. 2022). The efficiencies
are what well-tuned systems reach; a recorded run (``--from``) replaces all of this by measurement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rayrl.config.schema import Config
from rayrl.config.sizes import ModelSize, model_size
from rayrl.errors import ConfigError
from rayrl.simulation.scenario import Scenario

_BYTES = 2
"""Of a weight in bfloat16."""


@dataclass(frozen=True)
class Gpu:
    name: str = "H100"
    flops: float = 989e12
    """Dense bfloat16 FLOP/s."""
    memory_bytes_s: float = 3.35e12
    network_bytes_s: float = 40e9
    """Into one engine, during a weight update."""
    decode_efficiency: float = 0.6
    learn_efficiency: float = 0.35
    step_overhead_s: float = 0.003
    """Scheduling and sampling of one decoding step."""


def estimate(config: Config, gpu: Gpu | None = None, seed: int = 0) -> Scenario:
    """Raises `ConfigError` when the model's size is not known."""
    gpu, size = gpu or Gpu(), model_size(config.model.path)
    parameters = float(size.parameters) if size else _named_size(config.model.path)
    lengths = assumed_lengths(config, seed)
    mean = float(np.mean(lengths))
    context = config.data.max_prompt_length / 2 + mean / 2
    bandwidth = gpu.memory_bytes_s * gpu.decode_efficiency * config.rollout.tensor_parallel
    compute = gpu.flops * gpu.decode_efficiency * config.rollout.tensor_parallel
    flops = (8 if config.learner.activation_checkpointing else 6) * parameters * config.learner.epochs
    prompts = 1 + config.data.max_prompt_length / 2 / mean
    moved_s = _BYTES * parameters / gpu.network_bytes_s
    return Scenario(
        groups_per_step=config.batch.groups_per_step,
        max_staleness=config.buffer.max_staleness,
        lengths=lengths,
        engines=config.rollout.num_engines,
        max_running=config.rollout.max_running,
        iteration_s=_BYTES * parameters / bandwidth + gpu.step_overhead_s,
        sequence_s=_cache_bytes(size, parameters) * context / bandwidth + 2 * parameters / compute,
        score_s=0.5,
        learn_s=0.5,
        learn_token_s=flops * prompts / (gpu.flops * gpu.learn_efficiency * config.learner.ranks * config.placement.learner_gpus_per_rank),
        export_s=moved_s,
        publish_s=moved_s + 0.5,
        pause_s=moved_s,
        driver_s=0.1,
        failures_per_hour=0.0005,
        restart_s=180.0,
    )


def assumed_lengths(config: Config, seed: int, groups: int = 256) -> list[list[int]]:
    """Long-tailed lengths: log-normal with its median at an eighth of max_tokens, cut at max_tokens; the groups differ in scale."""
    rng, most = np.random.default_rng(seed), config.rollout.sampling.max_tokens
    scale = rng.normal(np.log(max(2.0, most / 8)), 0.6, size=(groups, 1))
    drawn = np.exp(scale + rng.normal(0.0, 0.6, size=(groups, config.batch.group_size)))
    return np.clip(drawn, 1, most).astype(int).tolist()


def _cache_bytes(size: ModelSize | None, parameters: float) -> float:
    """Key/value cache of one token; without the model's shape, that of a 7-billion model with grouped queries, scaled."""
    return float(size.kv_bytes_per_token(_BYTES)) if size else 57_344 * (parameters / 7e9) ** (2 / 3)


def _named_size(path: str) -> float:
    found = re.search(r"(\d+(?:\.\d+)?)\s*[bB](?![a-zA-Z])", path)
    if found is None:
        raise ConfigError(
            f"model.path {path!r} is not on this machine and its name says no size", "give a local checkpoint, or --from a recorded run"
        )
    return float(found[1]) * 1e9
