"""An inference actor answers each worker as the network alone would, in passes for all who wait; whoever calls it outlives its death."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rayrl import agent_assembly
from rayrl.config.loading import load
from rayrl.config.schema import AgentNetworkConfig
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler
from rayrl.errors import ConfigError, RoleDied
from rayrl.models.agent import AgentNet, Sizes
from rayrl.rollout import lanes
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.agent_policy import LocalPolicy, RemotePolicy
from rayrl.rollout.fragment_sampler import FragmentSampler
from rayrl.rollout.inference import InferenceActor
from rayrl.runtime.local import LocalStore
from tests.unit.learner import agent_cases

FACTORY = agent_env_factory("chain", {"length": 3, "max_steps": 9})


def network() -> AgentNet:
    torch.manual_seed(0)
    return AgentNet(VectorSampler(FACTORY, 1, 0).spec, Sizes.of(AgentNetworkConfig(size="small")))


class Slow(LocalPolicy):
    """Its first pass lasts until it is let go."""

    def __init__(self, net: AgentNet) -> None:
        super().__init__(net)
        self.version, self.let_go, self.passes, self.breaks = 3, threading.Event(), [], False

    def forward(self, observations, state):
        self.passes.append(len(state))
        self.let_go.wait(10)
        if self.breaks:
            raise ValueError("broken")
        return super().forward(observations, state)


def shown(envs: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    sampler = VectorSampler(FACTORY, envs, seed)
    sampler.reset()
    state = np.random.default_rng(seed).normal(size=(envs, 160)).astype(np.float32)
    return {name: array.copy() for name, array in sampler.observations().items()}, state


def side_by_side(actor: InferenceActor, slow: Slow, sizes: list[int]) -> list:
    """Answers or errors of one call per size; all but the first arrive while the first one's pass is under way."""
    found: list = [None] * len(sizes)

    def call(i: int) -> None:
        try:
            found[i] = actor.step(*shown(sizes[i], i))
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(sizes))]
    threads[0].start()
    limit = time.monotonic() + 10
    while not slow.passes:
        assert time.monotonic() < limit
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    while len(actor._queue) < len(sizes) - 1:
        assert time.monotonic() < limit
        time.sleep(0.001)
    slow.let_go.set()
    for thread in threads:
        thread.join(10)
    return found


def test_those_who_wait_share_a_pass_and_get_what_the_network_alone_would_say():
    slow = Slow(network())
    actor = InferenceActor(slow, LocalStore(), sync_s=10)
    sizes = [2, 3, 1, 4]
    for i, (version, logprobs, state) in enumerate(side_by_side(actor, slow, sizes)):
        observations, before = shown(sizes[i], i)
        alone = LocalPolicy(network())
        expected, after = alone.forward({k: torch.from_numpy(v) for k, v in observations.items()}, torch.from_numpy(before))
        assert version == 3
        np.testing.assert_allclose(logprobs, expected, atol=1e-5)
        np.testing.assert_allclose(state, after.numpy(), atol=1e-5)
    assert slow.passes == [2, 8]
    assert actor.stats()["passes"] == 2 and actor.stats()["steps"] == 10


def test_an_error_of_a_pass_reaches_each_of_its_callers_and_no_later_one():
    slow = Slow(network())
    slow.breaks = True
    actor = InferenceActor(slow, LocalStore(), sync_s=10)
    assert [str(error) for error in side_by_side(actor, slow, [1, 2])] == ["broken", "broken"]
    slow.breaks = False
    assert actor.step(*shown(2, 0))[1].shape == (2, 6)


def test_it_answers_nobody_before_it_has_weights():
    made = agent_cases.config()
    actor = agent_assembly.build_inference(made, LocalStore())
    observations, state = shown(2, 0)
    with pytest.raises(RoleDied, match="no weights yet"):
        actor.step(observations, state)
    report = actor.update_weights(agent_cases.learner(made).export_weights(5, np.array([7], np.int32)))
    assert report.version == 5 and report.canary_gap < 1e-6
    assert actor.step(observations, state)[0] == 5


class Mortal:
    """Calls of an actor that dies after its fifth step; two calls later its replacement is there."""

    def __init__(self, first: InferenceActor, second: InferenceActor) -> None:
        self.first, self.second, self.asked = first, second, 0

    def ask(self, *args):
        self.asked += 1
        call = self.first.step if self.asked <= 5 else self.second.step if self.asked > 7 else _dead
        return SimpleNamespace(result=lambda timeout_s: call(*args))


def _dead(*args):
    raise RoleDied("inference-0 died", "")


def test_a_worker_goes_on_with_the_replacement_and_its_fragment_says_with_which_weights(monkeypatch):
    monkeypatch.setattr(lanes, "_AGAIN_S", 0.001)
    actors = []
    for version in (4, 9):
        policy = LocalPolicy(network())
        policy.version = version
        actors.append(InferenceActor(policy, LocalStore(), sync_s=10))
    mortal = Mortal(*actors)
    remote = RemotePolicy(mortal.ask, 160, 10.0)
    far = FragmentSampler(VectorSampler(FACTORY, 4, 1), AgentEngine(remote, seed=2), 8)
    near = FragmentSampler(VectorSampler(FACTORY, 4, 1), AgentEngine(LocalPolicy(network()), seed=2), 8)
    for ordinal in range(3):
        found, expected = far.collect(ordinal), near.collect(ordinal)
        assert (found.actions == expected.actions).all()
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-6)
        np.testing.assert_allclose(found.state, expected.state, atol=1e-6)
        spans = [tuple(span) for span in found.version_spans]
        assert spans == ([(4, 0, 5), (9, 5, 8)] if ordinal == 0 else [(9, 0, 8)])
    assert mortal.asked == 3 * 8 + 2


def test_weights_are_never_taken_by_a_worker_that_would_not_use_them():
    with pytest.raises(TypeError, match="inference actor"):
        RemotePolicy(lambda *args: None, 8, 1.0).update_weights(None)


def test_settings_that_leave_an_actor_without_work_are_refused():
    with pytest.raises(ConfigError, match="nobody to serve"):
        load("agent_chain", ["agent.inference.actors=3", "agent.workers=2"])
    with pytest.raises(ConfigError, match=r"agent\.inference\.gpus is 0\.5"):
        load("agent_chain", ["agent.inference.gpus=0.5"])
