"""An episode that is watched is one episode, shows whole screens, and moves nothing of what is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayrl.config.schema import AgentNetworkConfig
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler
from rayrl.models.agent import AgentNet, Sizes
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.agent_policy import LocalPolicy
from rayrl.rollout.watched import watch


def engine_for(factory):
    env = factory()
    torch.manual_seed(0)
    engine = AgentEngine(LocalPolicy(AgentNet(env.agent_spec, Sizes.of(AgentNetworkConfig(size="small")))), seed=1)
    env.close()
    return engine


def test_it_ends_with_its_episode_and_leaves_the_random_numbers_alone():
    factory = agent_env_factory("chain", {"length": 4, "max_steps": 9}, watched=True)
    engine = engine_for(factory)
    before = engine._rng.bit_generator.state
    found = watch(VectorSampler(factory, 1, 3), engine, 50, seed=5)
    assert engine._rng.bit_generator.state == before
    assert 1 <= found.steps <= 9 and found.envs == 1
    assert bool(found.terminated[-1, 0] | found.truncated[-1, 0]) and not found.terminated[:-1].any() and not found.truncated[:-1].any()
    again = watch(VectorSampler(factory, 1, 3), engine, 50, seed=5)
    assert np.array_equal(again.actions, found.actions)


def test_nethack_is_recorded_with_its_whole_terminal():
    pytest.importorskip("nle", reason="NetHack needs nle")
    factory = agent_env_factory("nethack_score", {"max_episode_steps": 12}, watched=True)
    found = watch(VectorSampler(factory, 1, 3), engine_for(factory), 8, seed=5)
    chars = found.observations["tty_chars"]
    assert chars.shape == (9, 1, 24, 80) and found.observations["tty_colors"].shape == chars.shape
    screens = ["\n".join(bytes(line).decode("latin-1") for line in frame) for frame in chars[:, 0]]
    assert all("Dlvl:1" in screen and "@" in screen for screen in screens) and len(set(screens)) > 1
