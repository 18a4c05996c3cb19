"""What the sampler says of K environments is what K loops, each alone, would have said."""

import json
import string

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rayrl.agent_types import RunningEpisodes
from rayrl.envs.adapter import GymnasiumAdapter
from rayrl.envs.messages import NO_MESSAGE, NewTexts, masked, message_hash, tally
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler

K = 8


def chain(**args):
    return agent_env_factory("chain", {"length": 3, "max_steps": 7} | args)


def reference(factory, k: int, actions, seeds) -> list[tuple]:
    """One environment alone, with plain Python counts: (hash, count, reward, terminated, truncated) per step."""
    env, seeds, counts = factory(), iter(seeds), {}

    def seen(observation):
        text = bytes(env.message(observation))
        counts[text] = counts.get(text, 0) + 1
        return message_hash(text), counts[text]

    rows, now = [], seen(env.reset(seed=next(seeds))[0])
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(int(action))
        rows.append((*now, reward, terminated, truncated))
        if terminated or truncated:
            counts.clear()
            observation, _ = env.reset(seed=next(seeds))
        now = seen(observation)
    return rows


def test_interleaved_environments_count_as_each_would_alone():
    sampler = VectorSampler(chain(), K, seed=3)
    sampler.reset()
    actions = np.random.default_rng(0).integers(6, size=(2500, K))
    rows, seeds = [[] for _ in range(K)], [[] for _ in range(K)]
    for now in actions:
        hashes, counts = sampler.message_hash.copy(), sampler.message_count.copy()
        result = sampler.step(now)
        for k in range(K):
            rows[k].append((hashes[k], counts[k], result.rewards[k], result.terminated[k], result.truncated[k]))
        for episode in result.episodes:
            seeds[episode.env].append(episode.seed)
    for k in range(K):
        assert len(seeds[k]) > 100
        ends = len(seeds[k])
        alone = reference(chain(), k, actions[:, k], [*seeds[k], sampler._episode_seed[k]])
        assert sum(terminated or truncated for *_, terminated, truncated in alone) == ends
        assert rows[k] == alone


def test_a_truncated_episode_shows_its_real_last_observation_and_a_terminated_one_none():
    sampler = VectorSampler(chain(length=2), 4, seed=0)
    sampler.reset()
    rng, kinds = np.random.default_rng(1), set()
    for _ in range(300):
        result = sampler.step(rng.integers(6, size=4))
        assert set(result.last_observations) == set(np.flatnonzero(result.truncated))
        assert not (result.truncated & result.terminated).any()
        for last in result.last_observations.values():
            assert last["left"] == 0.0  # the clock of the old episode, not of the new one
        for k in np.flatnonzero(result.truncated | result.terminated):
            assert sampler.observations()["left"][k] == 1.0
            assert sampler.message_count[k] == 1
            kinds.add(bool(result.truncated[k]))
    assert kinds == {True, False}


def test_episode_records_add_up():
    sampler = VectorSampler(chain(length=2), 3, seed=0)
    sampler.reset()
    rng, rewards, episodes = np.random.default_rng(1), np.zeros(3), []
    for _ in range(500):
        result = sampler.step(rng.integers(6, size=3))
        rewards += result.rewards
        episodes += result.episodes
    for k in range(3):
        mine = [e for e in episodes if e.env == k]
        assert [e.episode for e in mine] == list(range(len(mine)))
        assert sum(e.total_reward for e in mine) == rewards[k] == sum(e.sums["success"] for e in mine)
        assert 500 - 7 <= sum(e.length for e in mine) <= 500
    assert {e.end for e in episodes} == {"success", "time"}
    assert len({e.seed for e in episodes}) == len(episodes)


def test_one_seed_gives_one_stream_and_another_seed_another():
    def stream(seed):
        sampler = VectorSampler(chain(), 3, seed)
        sampler.reset()
        rng, hashes = np.random.default_rng(0), []
        for _ in range(200):
            hashes.append(sampler.message_hash.copy())
            sampler.step(rng.integers(6, size=3))
        return np.array(hashes)

    assert (stream(5) == stream(5)).all()
    assert (stream(5) != stream(6)).any()
    assert len({tuple(column) for column in stream(5).T}) == 3


def test_each_text_is_given_once():
    sampler = VectorSampler(chain(), 4, seed=0)
    sampler.reset()
    rng, texts, hashes = np.random.default_rng(0), {}, set(sampler.message_hash.tolist())
    for step in range(400):
        sampler.step(rng.integers(6, size=4))
        hashes |= set(sampler.message_hash.tolist())
        if step % 20 == 0:
            new = sampler.take_texts()
            assert not new.keys() & texts.keys()
            texts |= new
    texts |= sampler.take_texts()
    assert texts.keys() == hashes
    assert all(message_hash(text) == key for key, text in texts.items())


class Purses(gym.Env):
    """Says what was found: another sum of gold at each step, from few."""

    observation_space = spaces.Dict({"message": spaces.Text(64, charset=string.printable)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"message": "You see 2 purses."}, {}

    def step(self, action):
        return {"message": f"$ - {int(self.np_random.integers(1, 40))} gold pieces."}, 0.0, False, False, {}


def test_masked_numbers_join_texts_and_leave_counts_exact():
    def played(mask):
        sampler = VectorSampler(lambda: GymnasiumAdapter(Purses(), None), 4, seed=0, mask_numbers=mask)
        sampler.reset()
        rows = [(sampler.message_hash.copy(), sampler.message_count.copy())]
        for _ in range(300):
            sampler.step(np.zeros(4, np.int32))
            rows.append((sampler.message_hash.copy(), sampler.message_count.copy()))
        hashes, counts = (np.array(column) for column in zip(*rows, strict=True))
        return hashes, counts, sampler.take_texts()

    exact, exact_counts, exact_texts = played(False)
    hashes, counts, texts = played(True)
    assert len(exact_texts) == 40 and set(texts.values()) == {b"You see # purses.", b"$ - # gold pieces."}
    assert (counts == exact_counts).all() and counts.max() > 1
    expected = {key: message_hash(masked(text)) for key, text in exact_texts.items()}
    assert (hashes == np.vectorize(expected.get, otypes=[np.uint64])(exact)).all()
    assert set(np.unique(hashes).tolist()) == texts.keys()


def test_the_memory_of_texts_is_bounded():
    new = NewTexts(limit=10)
    for key in range(1, 1000):
        new.see(key, b"x")
        new.see(key, b"x")
        assert len(new._young) + len(new._old) <= 2 * 10 + 2
        assert new.take() == {key: b"x"}


def test_the_empty_message_has_hash_zero_and_is_not_sent():
    assert message_hash(b"") == NO_MESSAGE
    new = NewTexts()
    new.see(NO_MESSAGE, b"")
    assert new.take() == {}


@pytest.mark.parametrize("seed", range(20))
def test_a_tally_counts_sightings_and_first_sightings(seed):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 6, size=(32, 4)).astype(np.uint64)
    counts = rng.integers(1, 4, size=(32, 4)).astype(np.int32)
    distinct, seen, firsts = tally(hashes, counts)
    pairs = [(int(h), int(c)) for h, c in zip(hashes.ravel(), counts.ravel(), strict=True) if h]
    assert distinct.tolist() == sorted({h for h, _ in pairs})
    assert seen.tolist() == [sum(h == d for h, _ in pairs) for d in distinct]
    assert firsts.tolist() == [sum(h == d and c == 1 for h, c in pairs) for d in distinct]


class Broken(gym.Env):
    observation_space, action_space = spaces.Text(8), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return "", {}

    def step(self, action):
        return "", float("nan"), False, False, {}


def test_a_reward_that_is_no_number_is_refused():
    sampler = VectorSampler(agent_env_factory(f"{__name__}:Broken"), 2, seed=0)
    sampler.reset()
    with pytest.raises(ValueError, match="not finite"):
        sampler.step([0, 0])


def test_running_episodes_are_taken_up_where_they_were_by_a_sampler_that_never_saw_them():
    one, other = VectorSampler(chain(length=6, max_steps=45), K, seed=3), VectorSampler(chain(length=6, max_steps=45), K, seed=99)
    one.reset()
    other.reset()
    actions = np.random.default_rng(1).integers(6, size=(160, K))
    for now in actions[:100]:
        one.step(now)
    saved = RunningEpisodes.from_json(json.loads(json.dumps(one.running().to_json())))
    assert max(map(len, saved.actions)) <= 45 and min(saved.numbers) >= 2
    other.replay(saved)
    for now in actions[100:]:
        for name, rows in one.observations().items():
            assert (rows == other.observations()[name]).all()
        assert (one.message_hash == other.message_hash).all() and (one.message_count == other.message_count).all()
        a, b = one.step(now), other.step(now)
        assert (a.rewards == b.rewards).all() and a.episodes == b.episodes


def test_episodes_that_another_environment_was_in_are_refused():
    one = VectorSampler(chain(length=6, max_steps=45), 2, seed=3)
    one.reset()
    for _ in range(20):
        one.step([5, 5])
    with pytest.raises(ValueError, match="which it had not before"):
        VectorSampler(chain(length=6, max_steps=10), 2, seed=3).replay(one.running())
    with pytest.raises(ValueError, match="2 running episodes cannot go on in 3 environments"):
        VectorSampler(chain(length=6, max_steps=45), 3, seed=3).replay(one.running())
