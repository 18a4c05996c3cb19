"""The builders of environment agents: what `assembly` calls where ``agent.env`` is set. Each runs inside its role's own process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rayrl.config.schema import Config
from rayrl.protocols import ReplayBuffer, Store


def build_buffer(config: Config, store: Store, journal: Path) -> Any:
    """Rewards come with the fragments, so that no scorer is needed."""
    from rayrl.algorithms.aggregation import weighted_sum
    from rayrl.buffer.journal import Journal
    from rayrl.buffer.service import BufferService
    from rayrl.rollout.env_worker import EXTRINSIC

    return BufferService(
        config.buffer,
        weights={EXTRINSIC: 1.0},
        aggregate=weighted_sum,
        jobs=(),
        num_workers=config.agent.workers,
        store=store,
        journal=Journal(journal),
    )


def build_env_worker(
    config: Config, store: Store, name: str, index: int, buffer: ReplayBuffer, transport: str, annotator: Any = None
) -> Any:
    """``transport``: weights of an agent travel through the store; nothing else is offered."""
    import torch

    from rayrl.envs.registry import agent_env_factory
    from rayrl.envs.vector import VectorSampler
    from rayrl.models.agent import AgentNet, Sizes
    from rayrl.rollout.agent_engine import AgentEngine
    from rayrl.rollout.env_worker import EnvWorker
    from rayrl.rollout.sightings import Sightings

    torch.set_num_threads(1)
    agent = config.agent
    factory = agent_env_factory(agent.env or "", agent.env_args, agent.message_key)
    watched = agent_env_factory(agent.env or "", agent.env_args, agent.message_key, watched=True)
    net = AgentNet(env_spec(config), Sizes.of(agent.network), values=2 if agent.separate_values else 1)
    return EnvWorker(
        name,
        index,
        AgentEngine(net, seed=config.run.seed + index),
        lambda seed: VectorSampler(factory, agent.envs_per_worker, seed, mask_numbers=agent.mask_numbers),
        buffer,
        store,
        steps=agent.fragment_length,
        seed=config.run.seed,
        sightings=Sightings(partial(annotator.submit, "sight"), _patience(config)) if annotator is not None else None,
        make_watched=lambda seed: VectorSampler(watched, 1, seed, mask_numbers=agent.mask_numbers),
        call_s=config.deadlines.call_s,
        sync_s=config.deadlines.sync_s,
    )


def networks(config: Config, annotator: Any = None, rater: Any = None) -> Callable[[Config], Any]:
    """Builds the learner's `Networks`, with the intrinsic reward that its trainer adds. ``annotator`` is asked for labels, ``rater`` for
    the model that was fitted to them."""
    from rayrl.learner.agent_networks import AgentNetworks
    from rayrl.learner.intrinsic import build_intrinsic

    source, what = (rater, "model") if rater is not None else (annotator, "snapshot")
    ask = partial(source.submit, what) if source is not None else None
    intrinsic = config.agent.intrinsic
    heads = config.reward_models[intrinsic.reward_model].heads if intrinsic.reward_model is not None else 1
    return lambda c: AgentNetworks(c, env_spec(c), build_intrinsic(c.agent.intrinsic, ask, _patience(config), heads))


def _patience(config: Config) -> float:
    """Seconds that an agent's roles wait for what a judge's labels change; only a run that must repeat itself waits at all."""
    return config.deadlines.call_s if config.run.deterministic else 0.0


def env_spec(config: Config) -> Any:
    """What the environment shows (`EnvSpec`), from one instance that is closed again."""
    from rayrl.envs.registry import agent_env_factory

    agent = config.agent
    env = agent_env_factory(agent.env or "", agent.env_args, agent.message_key)()
    try:
        return env.agent_spec
    finally:
        env.close()
