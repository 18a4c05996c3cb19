"""``agent.intrinsic.pays``: the action that a text is shown to, or the one that led to it. What an episode is worth stays the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agent_cases import batch, config, learner, sampler

from rayrl.algorithms import fragment_credit
from rayrl.algorithms.fragment_credit import Steps
from rayrl.learner.fragments import assign_rewards, stack
from rayrl.learner.intrinsic import build_intrinsic

KIND = "agent.intrinsic={kind: count, coef: 0.3, pays: %s}"


def played(count: int, *overrides: str):
    """Fragments of one sampler."""
    playing = sampler(config(*overrides))
    return [playing.collect(i) for i in range(count)]


def rewarded(pays: str, fragments, *overrides: str):
    """The fragments' rewards and stacks, each for itself."""
    made = config(KIND % pays, *overrides)
    source = build_intrinsic(made.agent.intrinsic, None)
    rewards = [assign_rewards([f], made.agent, source) for f in fragments]
    layout = {"config": made.agent, "device": torch.device("cpu")}
    return made, rewards, [stack([f], r, f.frames, **layout) for f, r in zip(fragments, rewards, strict=True)]


def discounted_episodes(rewards: np.ndarray, ended: np.ndarray, gamma: float) -> list[float]:
    """Discounted return of every whole episode, environment by environment."""
    found = []
    for env in range(rewards.shape[1]):
        total, power = 0.0, 1.0
        for reward, end in zip(rewards[:, env].tolist(), ended[:, env].tolist(), strict=True):
            total += power * reward
            power *= gamma
            if end:
                found.append(total)
                total, power = 0.0, 1.0
    return found


def test_a_discounted_return_differs_by_the_first_text_of_the_episode_alone():
    returns, firsts, fragments = {}, [], played(6)
    for pays in ("next_action", "last_action"):
        made, rewards, stacks = rewarded(pays, fragments, "agent.gamma=0.9")
        ended = np.concatenate([f.terminated | f.truncated for f in fragments])
        inner = np.concatenate([s.rewards[0].numpy() for s in stacks]) - np.concatenate([r[0].extrinsic for r in rewards])
        returns[pays] = discounted_episodes(inner, ended, made.agent.gamma)
        shown = np.concatenate([r[0].intrinsic for r in rewards])
        starts = np.vstack([np.ones_like(ended[:1]), ended[:-1]])
        firsts = [shown[t, env] for env in range(shown.shape[1]) for t in np.flatnonzero(starts[:, env])]
    whole = len(returns["next_action"])
    assert whole > 10 and len(firsts) >= whole
    per_env = [np.flatnonzero(ended[:, env]).size for env in range(ended.shape[1])]
    cut = np.cumsum([0, *(n + (not ended[-1, env]) for env, n in enumerate(per_env))])
    first = np.concatenate([firsts[start : start + n] for start, n in zip(cut, per_env, strict=False)])
    assert np.array(returns["last_action"]) + first == pytest.approx(np.array(returns["next_action"]), rel=1e-5, abs=1e-5)
    assert max(returns["last_action"]) > 0


@pytest.mark.parametrize("method", ["vtrace", "gae"])
def test_it_is_a_baseline_that_knows_what_the_text_pays(method):
    """Value functions of what follows a text, and the text paid before: the same advantages as with values that know its worth."""
    fragments = played(1, "agent.env_args={length: 3, max_steps: 100}")
    _, rewards, (after,) = rewarded("last_action", fragments)
    known = torch.from_numpy(np.vstack([rewards[0][0].intrinsic, rewards[0][0].following]))
    outer = torch.from_numpy(rewards[0][0].extrinsic)
    rng = torch.Generator().manual_seed(0)
    values, ratios = torch.randn(known.shape, generator=rng), torch.rand(outer.shape, generator=rng) * 2
    ends = (torch.from_numpy(fragments[0].terminated.copy()), torch.from_numpy(fragments[0].truncated.copy()))
    assert not ends[1].any()  # what a cut-off episode would have been paid next is not known

    def credit(paid: torch.Tensor, predicted: torch.Tensor):
        steps = Steps(paid, predicted, *ends, torch.zeros_like(paid))
        if method == "gae":
            return fragment_credit.gae(steps, 0.99, 0.9)
        return fragment_credit.vtrace(steps, ratios, 0.99, 1.0, 1.0)

    knowing, unknowing = credit(outer + known[:-1], values + known), credit(after.rewards[0], values)
    torch.testing.assert_close(knowing[0], unknowing[0])
    torch.testing.assert_close(knowing[1] - known[:-1], unknowing[1])


def test_the_text_after_the_last_step_pays_the_last_action():
    fragments = played(2)
    _, rewards, stacks = rewarded("last_action", fragments, "agent.gamma=0.9")
    goes_on = ~(fragments[0].terminated | fragments[0].truncated)[-1]
    inner = stacks[0].rewards[0].numpy() - rewards[0][0].extrinsic
    assert inner[-1] == pytest.approx(0.9 * rewards[1][0].intrinsic[0] * goes_on, abs=1e-5)
    assert (fragments[0].next_hash == fragments[1].message_hash[0]).all() and (
        fragments[0].next_count == fragments[1].message_count[0]
    ).all()


def test_the_learner_trains_on_it_and_reports_what_texts_pay():
    reports, fragments = {}, played(2)
    for pays in ("next_action", "last_action"):
        torch.manual_seed(0)  # the learner's network is drawn from it
        reports[pays] = learner(config(KIND % pays)).step(batch(0, fragments), None)
    assert reports["next_action"]["reward/intrinsic_part"] == reports["last_action"]["reward/intrinsic_part"] > 0
    assert reports["next_action"]["learner/loss"] != reports["last_action"]["learner/loss"]
