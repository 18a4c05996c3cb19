"""Any Gymnasium environment with text plays; one that cannot is refused in words."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from rayrl.agent_types import ArrayKind
from rayrl.envs.chain import EXITS, LISTEN, Chain
from rayrl.envs.registry import agent_env_factory
from rayrl.errors import ConfigError


class Talker(gym.Env):
    """Text in the info, everything else in the observation."""

    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, space=None, text="hello"):
        self.observation_space = space or spaces.Dict(
            pixels=spaces.Box(0, 255, (4, 4), np.uint8),
            position=spaces.Box(-1.0, 1.0, (2,), np.float64),
            mood=spaces.Discrete(300, start=10),
            keys=spaces.MultiBinary(3),
            dials=spaces.MultiDiscrete([3, 9]),
        )
        self.text, self.actions = text, []

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {"said": self.text}

    def step(self, action):
        self.actions.append(action)
        return self.observation_space.sample(), np.float64(1), False, False, {"said": self.text}


class Mute(Talker):
    def __init__(self):
        super().__init__(spaces.Box(-1.0, 1.0, (3,), np.float32))


class Twice(Talker):
    def __init__(self):
        super().__init__(spaces.Dict(a=spaces.Text(4), b=spaces.Text(4)))


class Nested(Talker):
    def __init__(self):
        super().__init__(spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))))


class Continuous(Talker):
    action_space = spaces.Box(-1, 1, (2,))


def adapted(name, message_key=None, **args):
    return agent_env_factory(f"{__name__}:{name}" if name[0].isupper() else name, args, message_key)()


def test_arrays_keep_their_meaning_in_compact_types():
    env = adapted("Talker", "said")
    spec = env.agent_spec.observations
    assert {name: (s.dtype, s.kind, s.shape) for name, s in spec.items()} == {
        "pixels": ("uint8", ArrayKind.NUMBERS, (4, 4)),
        "position": ("float32", ArrayKind.NUMBERS, (2,)),
        "mood": ("int16", ArrayKind.CATEGORIES, (1,)),
        "keys": ("uint8", ArrayKind.NUMBERS, (3,)),
        "dials": ("uint8", ArrayKind.CATEGORIES, (2,)),
        "message": ("uint8", ArrayKind.TEXT, (256,)),
    }
    assert spec["pixels"].scale == (1 / 255,)
    raw = Talker()
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        expected, _ = raw.reset(seed=seed)
        assert observation["mood"] == expected["mood"] - 10
        assert observation["mood"] < spec["mood"].categories
        np.testing.assert_array_equal(observation["pixels"], expected["pixels"])
        np.testing.assert_allclose(observation["position"], expected["position"], rtol=1e-6)
        assert {name: (a.dtype.name, a.shape) for name, a in observation.items()} == {n: (s.dtype, s.shape) for n, s in spec.items()}


def test_text_in_the_info_is_seen_and_hashed():
    env = adapted("Talker", "said", text="grüße")
    observation, _ = env.reset(seed=0)
    assert env.message(observation).decode() == "grüße"
    observation, reward, *_ = env.step(0)
    assert env.message(observation).decode() == "grüße"
    assert type(reward) is float


def test_a_text_that_is_too_long_is_cut_between_characters():
    env = adapted("Talker", "said", text="é" * 200 + "!")
    assert env.message(env.reset(seed=0)[0]).decode() == "é" * 128


def test_actions_start_where_the_space_starts():
    env = adapted("Talker", "said")
    env.reset(seed=0)
    for action in range(3):
        env.step(action)
    assert env._env.actions == [-1, 0, 1]


def test_an_environment_without_text_says_so():
    env = adapted("Mute")
    assert not env.agent_spec.has_messages
    assert env.message(env.reset(seed=0)[0]) == b""


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("Twice", None, "several texts: a, b"),
        ("Nested", None, "is a Dict space"),
        ("Continuous", None, "action space"),
        ("Talker", "mood", "is no text"),
        ("chian", None, "did you mean 'chain'"),
        ("calculator", None, "for language models"),
        ("rayrl.envs.chain:Chian", None, "did you mean 'Chain'"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_remedy(name, key, words):
    with pytest.raises(ConfigError) as error:
        adapted(name, key) if name[0].isupper() else agent_env_factory(name, {}, key)()
    assert words in str(error.value)
    assert error.value.hint


def test_wrong_arguments_are_a_configuration_error():
    for args in ({"lenght": 3}, {"length": 0}, {"length": 9, "max_steps": 5}, {"locks": 0}, {"locks": 9}):
        with pytest.raises(ConfigError, match=r"agent\.env_args"):
            agent_env_factory("chain", args)()


def test_the_chain_is_a_gymnasium_environment():
    check_env(Chain(), skip_render_check=True)


def test_only_the_right_exits_reach_the_end_of_the_chain():
    env = Chain(length=5)
    env.reset(seed=0)
    messages = []
    for room in range(5):
        wrong = next(e for e in range(EXITS) if e != env._onward[room])
        before = env._room
        env.step(LISTEN)
        assert env._room == before
        env.step(wrong)
        assert env._room == max(0, before - 1)
        if before:
            env.step(env._onward[env._room])
        observation, reward, terminated, truncated, info = env.step(env._onward[room])
        messages.append(observation["message"])
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {"end_reason": "success", "episode_sums": {"success": 1.0, "deepest": 5.0}}
    assert all("go deeper" in m for m in messages[:-1])
    assert "deeper" not in messages[-1] and "unlock" not in messages[-1]


def test_each_exit_leads_on_once_in_five_rooms_and_each_door_has_its_own_locks():
    for layout in range(20):
        env = Chain(length=15, layout=layout)
        assert all(sorted(env._onward[k : k + EXITS]) == list(range(EXITS)) for k in (0, 5, 10))
    env, seen = Chain(length=6, max_steps=10_000, locks=3), set()
    env.reset(seed=0)
    for _ in range(400):
        message = env.step(env._onward[env._room])[0]["message"]
        seen.add(message)
        env.step(next(e for e in range(EXITS) if e != env._onward[env._room]))
    assert {m for m in seen if "guard room" in m} == {
        f"You unlock the {lock} and go deeper, into the guard room." for lock in ("oak door", "iron grate", "stone seal")
    }


def test_random_play_never_finds_the_end_of_the_chain():
    env, rng, successes = Chain(), np.random.default_rng(0), 0
    env.reset(seed=0)
    for _ in range(100_000):
        *_, terminated, truncated, _ = env.step(int(rng.integers(6)))
        successes += terminated
        if terminated or truncated:
            env.reset()
    assert successes == 0
