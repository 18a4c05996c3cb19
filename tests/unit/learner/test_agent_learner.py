"""The learner of environment agents: it learns, it repeats itself, it goes on exactly, and without intrinsic weight it is plain PPO."""

import numpy as np
import pytest
import torch
from agent_cases import STEPS, batch, config, learner, sampler, train, update

from rayrl.algorithms.agent_losses import clipped_surrogate
from rayrl.annotations import LabelSnapshot
from rayrl.config.loading import load
from rayrl.data.fragment_arrow import decode
from rayrl.errors import WeightSyncError
from rayrl.learner.agent_trainer import AgentTrainer
from rayrl.learner.intrinsic import Cosine, Nothing, Retrieval
from rayrl.rollout.agent_policy import LocalPolicy


def weights(learning) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learning._networks.wire().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("credit", ["vtrace", "gae"])
def test_two_runs_of_one_seed_are_the_same_bit_for_bit(credit):
    runs = [train(config(f"agent.credit={credit}", "learner.minibatches=2", "learner.epochs=2"), 3) for _ in range(2)]
    assert same(weights(runs[0][0]), weights(runs[1][0]))
    assert [{k: v for k, v in r.items() if not k.endswith("_per_s")} for r in runs[0][1]] == [
        {k: v for k, v in r.items() if not k.endswith("_per_s")} for r in runs[1][1]
    ]


@pytest.mark.parametrize("kind", ["count", "cosine"])
def test_without_weight_an_intrinsic_reward_changes_nothing(kind):
    plain, _ = train(config("agent.credit=gae"), 4)
    unweighted, _ = train(config("agent.credit=gae", f"agent.intrinsic={{kind: {kind}, coef: 0.0, goal: deeper}}"), 4)
    assert same(weights(plain), weights(unweighted))
    weighted, _ = train(config("agent.credit=gae", f"agent.intrinsic={{kind: {kind}, coef: 1.0, goal: deeper}}"), 4)
    assert not same(weights(plain), weights(weighted))


def test_a_resumed_learner_goes_on_as_if_nothing_had_happened(tmp_path):
    made = config("agent.intrinsic={kind: cosine, goal: unlock}", "agent.separate_values=true", "learner.minibatches=2")
    playing, first = sampler(made), learner(made)
    update(first, playing, 0)
    batches = [batch(i, [playing.collect(2 * i), playing.collect(2 * i + 1)]) for i in range(4)]
    for b in batches[:2]:
        first.step(b, None)
    first.save(tmp_path)
    second = learner(made)
    second.load(tmp_path)
    reports = [[dict(each.step(b, None)) for b in batches[2:]] for each in (first, second)]
    for report in (r for part in reports for r in part):
        report.pop("learner/frames_per_s")
    assert reports[0] == reports[1] and same(weights(first), weights(second))


def test_on_policy_the_learner_computes_what_the_worker_computed():
    _, reports = train(config(), 3)
    assert max(r["mismatch/abs_max"] for r in reports) < 1e-4


def test_an_agent_learns_the_short_chain_from_its_own_reward():
    made = config("agent.env_args={length: 2, max_steps: 12}", "learner.optim.lr=0.002", "run.steps=120")
    _, reports = train(made, 120)
    assert reports[-1]["episode/success"] > 0.9 and reports[5]["episode/success"] < 0.6


def test_on_policy_it_makes_no_difference_what_ratios_are_clipped_around():
    runs = [train(config(f"agent.clip_around={a}", "learner.epochs=2"), 2) for a in ("behavior", "proximal")]
    mine, other = (weights(run[0]) for run in runs)
    assert all(torch.allclose(mine[k], other[k], atol=1e-5) for k in mine)


def test_what_the_old_weights_said_is_asked_for_only_where_something_is_clipped_around_it(monkeypatch):
    asked = []
    before = AgentTrainer._before
    monkeypatch.setattr(AgentTrainer, "_before", lambda trainer, part: asked.append(1) or before(trainer, part))
    playing, found = sampler(config()), []
    played = batch(0, [playing.collect(i) for i in range(2)])
    for clip in ("0", "1e9"):  # never reached
        made = config("learner.minibatches=2", "agent.clip_around=behavior", f"agent.value_clip={clip}")
        learning = learner(made)
        learning.step(played, None)
        found.append(weights(learning))
        assert len(asked) == (0 if clip == "0" else 2)
    assert same(*found)


def test_around_the_proximal_policy_an_old_action_counts_by_its_truncated_weight():
    generator = torch.Generator().manual_seed(0)
    acted, before, now = (torch.randn(4, 3, generator=generator) * 0.3 for _ in range(3))
    advantages = torch.randn(4, 3, generator=generator)
    weight = (before - acted).exp().clamp(max=1.0)
    ratio = (now - before).exp()
    expected = -weight * torch.minimum(ratio * advantages, ratio.clamp(1 / 1.1, 1.1) * advantages)
    loss, _ = clipped_surrogate(ratio, advantages, 0.1, weight)
    assert torch.allclose(loss, expected)
    stale = clipped_surrogate((now - acted).exp(), advantages, 0.1)[0]
    assert not torch.allclose(loss, stale)


class Onward(Nothing):
    """Rates what a judge of progress calls good: the messages of going on."""

    def __init__(self):
        super().__init__()
        self.good = {}

    def refresh(self, texts):
        self.good |= {key: float(b"unlock" in text) for key, text in texts.items()}

    def rate(self, distinct, frames):
        return np.array([self.good.get(key, 0.0) for key in distinct.tolist()], np.float32)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_actions_of_two_versions_ago_still_teach():
    """Twelve rooms, labels without fault: python -m pytest tests/unit/learner/test_agent_learner.py -m slow (one minute)."""
    made = load("oni_chain", ["buffer.max_staleness=2", "learner.cpu_threads=1", "run.steps=290"]).config
    _, reports = train(made, 290, Onward(), lag=2)
    assert reports[-1]["episode/success"] > 0.9


def test_weights_that_do_not_fit_are_refused_and_right_ones_are_proven():
    made = config()
    learning, playing = learner(made), sampler(made)
    assert update(learning, playing, 1).canary_gap < 1e-6
    with pytest.raises(WeightSyncError, match="does not fit"):
        update(learner(config("agent.network.hidden=32")), playing, 2)


def test_a_policy_that_acts_in_bfloat16_follows_exact_weights_and_proves_those():
    made = config()
    exact, rounded = sampler(made), sampler(made)
    net = rounded._engine.policy.net
    rounded._engine.policy = LocalPolicy(net, dtype=torch.bfloat16)
    learning = learner(made)
    for version in (0, 1):  # also the second update reaches what it acts with
        for one in (exact, rounded):
            report = update(learning, one, version)
            assert report.version == version and report.canary_gap < 1e-6
        sent, acting = weights(learning).values(), rounded._engine.policy._acting.parameters()
        assert all(torch.equal(a, b.bfloat16()) for a, b in zip(acting, sent, strict=True))
        present, state = exact._present(), torch.rand_like(exact._state)
        (near, after), (found, found_after) = (one._engine.policy.forward(present, state) for one in (exact, rounded))
        assert found.dtype == near.dtype == np.float32 and found_after.dtype == after.dtype == torch.float32
        np.testing.assert_allclose(found, near, atol=0.02)
        assert 0 < (found_after - after).abs().max() < 0.02
        learning.step(batch(version, [exact.collect(i) for i in range(2)]), None)


def test_weights_that_arrive_within_a_fragment_are_told_by_its_spans():
    made = config()
    learning, playing = learner(made), sampler(made)
    update(learning, playing, 1)
    steps = iter(range(STEPS))
    fragment = playing.collect(0, lambda: update(learning, playing, 2) if next(steps) == 3 else None)
    assert fragment.version_spans == ((1, 0, 3), (2, 3, STEPS)) and fragment.oldest_version == 1


class Answered:
    def __init__(self, value, ready=True):
        self.value, self.ready = value, ready

    def wait(self, timeout_s):
        return self.ready

    def result(self, timeout_s):
        return self.value


def test_labels_are_taken_when_they_come_and_never_waited_for():
    hashes, frames = np.array([3, 5, 9], np.uint64), np.array([2, 1, 1])
    answers = [Answered(None), Answered(LabelSnapshot(4, np.array([5, 9], np.uint64), np.array([1, 0], np.float32)), ready=False)]
    asked = []
    source = Retrieval(lambda newer: asked.append(newer) or answers[len(asked) - 1])
    for ready in (False, True):
        source.refresh({})
        assert source.rate(hashes, frames).tolist() == [0, 0, 0] and source.metrics()["intrinsic/version"] == -1
        source.refresh({})
        answers[1].ready = ready
    source.refresh({})
    assert source.rate(hashes, frames).tolist() == [0, 1, 0]
    found = source.metrics()
    assert (found["intrinsic/version"], found["intrinsic/labelled_share"], found["intrinsic/changed_share"]) == (4, 0.5, 0.25)


def test_a_dead_annotator_leaves_the_labels_that_are_there():
    class Dead(Answered):
        def result(self, timeout_s):
            raise RuntimeError("gone")

    known = LabelSnapshot(1, np.array([5], np.uint64), np.array([1], np.float32))
    answers = iter([Answered(known), Dead(None), Answered(None), Answered(None)])
    source = Retrieval(lambda newer: next(answers))
    for _ in range(3):
        source.refresh({})
        assert source.rate(np.array([5], np.uint64), np.array([1])).tolist() == [1]
    assert source.metrics()["intrinsic/lost_count"] == 1


def test_texts_are_rated_once_and_unknown_ones_are_worth_nothing():
    source = Cosine("You kill the newt", 0.1)
    source.refresh({1: b"You kill the jackal!", 2: b"There is a fountain here."})
    rated = source.rate(np.array([1, 2, 3], np.uint64), np.ones(3, np.int64))
    assert rated[0] > 0.3 and rated[1] == rated[2] == 0
    again = Cosine("You kill the newt", 0.1)
    again.state = source.state
    assert again.rate(np.array([1, 2, 3], np.uint64), np.ones(3, np.int64)).tolist() == rated.tolist()


def test_a_fragment_of_the_sampler_says_what_happened():
    """Starts, truncations and their real last observations, counts and recurrent state, against a replay by hand."""
    made = config()
    playing = sampler(made)
    fragments = [playing.collect(i) for i in range(6)]
    assert sum(len(f.episodes) for f in fragments) > 8
    for f, following in zip(fragments, [*fragments[1:], None], strict=True):
        ended = f.terminated | f.truncated
        assert not (f.terminated & f.truncated).any()
        assert [(e.env) for e in f.episodes] == [k for t in range(f.steps) for k in np.flatnonzero(ended[t])]
        assert list(zip(f.final_steps, f.final_envs, strict=True)) == list(zip(*np.nonzero(f.truncated), strict=True))
        observed = {name: torch.from_numpy(array[: f.steps].copy()) for name, array in f.observations.items()}
        starts = torch.from_numpy(np.concatenate([np.zeros((1, f.envs), bool), ended[:-1]]))
        with torch.no_grad():
            logprobs, _, states = playing._engine.policy.net(observed, torch.from_numpy(f.state.copy()), starts)
        chosen = logprobs.gather(-1, torch.from_numpy(f.actions.astype(np.int64)).unsqueeze(-1)).squeeze(-1)
        np.testing.assert_allclose(chosen.numpy(), f.logprobs, atol=1e-5)
        if following is not None:
            np.testing.assert_allclose(following.state, np.where(ended[-1][:, None], 0, states[-1].numpy()), atol=1e-5)
        assert (f.message_count >= 1).all() and (f.message_count[1:][ended[:-1]] == 1).all()
        if len(f.final_steps):
            t, k = f.final_steps[0], f.final_envs[0]
            assert f.final_observations["left"][0, 0] == 0 and f.observations["left"][t + 1, k, 0] == 1
        assert decode(b := batch(0, [f]).groups[0].info.payload).frames == f.frames and b.nbytes > 0
