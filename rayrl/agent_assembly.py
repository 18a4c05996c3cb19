"""The builders of environment agents: what `assembly` calls where ``agent.env`` is set. Each runs inside its role's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rayrl.config.placement import RoleResources
from rayrl.config.schema import Config
from rayrl.protocols import ReplayBuffer, Store
from rayrl.runtime.contract import RoleSpec, Runtime
from rayrl.runtime.pool import Pool

_WIDE = 256
"""Width of the recurrent state from which env workers act in bfloat16. A processor with AVX-512 lost by it at 160, and gained at 512."""
_CALLS = 8
"""Calls that an inference actor serves at once beside the steps of the workers: weights, counters."""


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
    config: Config,
    store: Store,
    name: str,
    index: int,
    buffer: ReplayBuffer,
    transport: str,
    annotator: Any = None,
    inference: Sequence[Any] = (),
) -> Any:
    """``transport``: weights of an agent travel through the store; nothing else is offered. ``inference``: actors that compute the policy
    for all workers; without any the worker does."""
    import torch

    from rayrl.envs.registry import agent_env_factory
    from rayrl.envs.vector import VectorSampler
    from rayrl.models.agent import Sizes
    from rayrl.rollout.agent_engine import AgentEngine
    from rayrl.rollout.agent_policy import LocalPolicy, RemotePolicy
    from rayrl.rollout.env_worker import EnvWorker
    from rayrl.rollout.sightings import Sightings

    torch.set_num_threads(1)
    agent = config.agent
    factory = agent_env_factory(agent.env or "", agent.env_args, agent.message_key)
    watched = agent_env_factory(agent.env or "", agent.env_args, agent.message_key, watched=True)
    policy: Any
    if inference:
        step = partial(inference[index % len(inference)].submit, "step")
        policy = RemotePolicy(step, Sizes.of(agent.network).hidden, config.deadlines.call_s)
    else:
        compiled = None
        if agent.compile:
            from rayrl.models.agent_compiled import CompiledAct

            compiled = partial(CompiledAct, envs=agent.envs_per_worker, within_s=config.deadlines.start_s)
        policy = LocalPolicy(_net(config), dtype=_acting_dtype(config), compiled=compiled)
    return EnvWorker(
        name,
        index,
        AgentEngine(policy, seed=config.run.seed + index),
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


def build_inference(config: Config, store: Store) -> Any:
    """Computes the policy for several env workers, on the GPU of its process if it has one."""
    from rayrl.learner.networks import choose_device
    from rayrl.rollout.agent_policy import LocalPolicy
    from rayrl.rollout.inference import InferenceActor

    device = choose_device(config.agent.inference.cpu_threads, 1)
    policy = LocalPolicy(_net(config), device, _acting_dtype(config))
    return InferenceActor(policy, store, sync_s=config.deadlines.sync_s)


def start_inference(config: Config, runtime: Runtime, role: RoleResources | None) -> Pool | None:
    """Before the env workers, who are given its handles; None where each of them computes the policy itself."""
    if role is None:
        return None
    specs = [
        RoleSpec(
            f"{role.name}-{i}",
            build_inference,
            {"config": config, "store": runtime.store},
            cpus=role.cpus,
            gpus=role.gpus,
            bundle=role.bundles[i],
            threads=role.threads,
            cores=role.cores[i] if role.cores else (),
            concurrency=config.agent.workers + _CALLS,
            lasting=True,
            passive=True,
            trace=False,
        )
        for i in range(role.count)
    ]
    return Pool(runtime, specs, runtime.start(specs, config.deadlines.start_s), start_s=config.deadlines.start_s)


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


def _net(config: Config) -> Any:
    from rayrl.models.agent import AgentNet, Sizes

    return AgentNet(env_spec(config), Sizes.of(config.agent.network), values=2 if config.agent.separate_values else 1)


def _acting_dtype(config: Config) -> Any:
    """That of the learner's matrix products, where the network is wide enough to gain from it."""
    import torch

    from rayrl.models.agent import Sizes
    from rayrl.models.loading import torch_dtype

    return torch_dtype(config.model.dtype) if Sizes.of(config.agent.network).hidden >= _WIDE else torch.float32


def env_spec(config: Config) -> Any:
    """What the environment shows (`EnvSpec`), from one instance that is closed again."""
    from rayrl.envs.registry import agent_env_factory

    agent = config.agent
    env = agent_env_factory(agent.env or "", agent.env_args, agent.message_key)()
    try:
        return env.agent_spec
    finally:
        env.close()
