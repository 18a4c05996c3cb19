"""A tiny environment agent in one process: real environment, real sampler, real learner, no Ray."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rayrl import agent_assembly
from rayrl.agent_types import Fragment
from rayrl.config.loading import load
from rayrl.config.schema import Config
from rayrl.data.fragment_arrow import encode
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler
from rayrl.learner.agent_networks import AgentNetworks
from rayrl.learner.intrinsic import Intrinsic, build_intrinsic
from rayrl.learner.torch import TorchLearner
from rayrl.models.agent import AgentNet, Sizes
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.agent_policy import LocalPolicy
from rayrl.rollout.fragment_sampler import FragmentSampler
from rayrl.runtime.local import LocalStore
from rayrl.types import GroupInfo, LearnBatch, ScoredGroup

STEPS, ENVS = 8, 4


def config(*overrides: str) -> Config:
    short = ["agent.env_args={length: 3, max_steps: 11}", f"agent.envs_per_worker={ENVS}", f"agent.fragment_length={STEPS}"]
    return load("agent_chain", ["run.deterministic=true", "buffer.max_staleness=0", "learner.cpu_threads=1", *short, *overrides]).config


def learner(made: Config, intrinsic: Intrinsic | None = None) -> TorchLearner:
    source = intrinsic or build_intrinsic(made.agent.intrinsic, None)
    return TorchLearner(made, LocalStore(), build=lambda c: AgentNetworks(c, agent_assembly.env_spec(c), source))


def sampler(made: Config, seed: int = 0) -> FragmentSampler:
    spec = agent_assembly.env_spec(made)
    net = AgentNet(spec, Sizes.of(made.agent.network), values=2 if made.agent.separate_values else 1)
    factory = agent_env_factory(made.agent.env or "", made.agent.env_args)
    agent = made.agent
    return FragmentSampler(VectorSampler(factory, agent.envs_per_worker, seed), AgentEngine(LocalPolicy(net), seed), agent.fragment_length)


def update(made: TorchLearner, into: FragmentSampler, version: int) -> Any:
    """Hands the learner's weights over; the engine's report."""
    return into._engine.update_weights(made.export_weights(version, np.array([7], np.int32)))


def batch(step: int, fragments: list[Fragment]) -> LearnBatch:
    groups = []
    for fragment in fragments:
        frames = np.array([fragment.frames], np.int32)
        info = GroupInfo(fragment.ordinal, encode(fragment), 0, frames, frames, fragment.oldest_version, fragment.oldest_version)
        groups.append(ScoredGroup(info, {}, np.zeros(1, np.float32), np.ones(1, np.bool_)))
    return LearnBatch(step, step, tuple(groups))


def train(made: Config, steps: int, intrinsic: Intrinsic | None = None, lag: int = 0) -> tuple[TorchLearner, list[dict[str, float]]]:
    """Training in lockstep: two fragments a step, played with the weights of ``lag`` steps before."""
    learning, playing = learner(made, intrinsic), sampler(made)
    reports, exported = [], deque(maxlen=lag + 1)
    for step in range(steps):
        exported.append(learning.export_weights(step, np.array([7], np.int32)))
        playing._engine.update_weights(exported[0])
        reports.append(learning.step(batch(step, [playing.collect(2 * step + i) for i in range(2)]), None))
    return learning, reports
