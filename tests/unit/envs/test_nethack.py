"""ONI's tasks on the real game: scripted in NetHack's debug mode where the game can be scripted, against stock nle elsewhere."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

pytest.importorskip("nle", reason="NetHack needs the extra 'nethack'")

from nle.env import tasks as stock

from rayrl.envs.messages import message_hash
from rayrl.envs.nethack import tasks, view
from rayrl.envs.nethack.tasks import ACTIONS
from rayrl.envs.registry import AGENT_ENVS, agent_env_factory
from rayrl.envs.vector import VectorSampler

KEY = {chr(key): action for action, key in enumerate(ACTIONS) if key < 128}
LEVEL_TELEPORT, MAP, GENESIS, WISH = b"\x16%d\r", b"\x06", b"\x07%s\ry", b"\x17%s\r"


def on_stairs(env, level: int) -> None:
    """A hero of the debug mode on the stairs down of ``level``, in the first game where the way is free."""
    for seed in range(50):
        env.reset(seed=seed)
        if level > 1:
            env.game.press(LEVEL_TELEPORT % level)
        env.game.press(MAP)
        for _ in range(8):
            while env.view.pending[3]:
                env.game.press(b" ")
            env.game.press(b"_>.")
            if env.view.pending[4] and env.view.stats[view.DUNGEON] == 0:
                return
    raise AssertionError(f"no way to the stairs of level {level}")


@pytest.mark.parametrize(("task", "target"), [(tasks.StaircaseLvl2, 2), (tasks.StaircaseLvl3, 3), (tasks.StaircaseLvl4, 4)])
def test_descending_pays_once_at_its_level_and_the_message_survives_the_more(task, target):
    env = task(wizard=True, continual=True)
    paid = []
    for level in (1, 2, 3):
        on_stairs(env, level)
        observation, reward, *_ = env.step(KEY[">"])
        assert bytes(observation["message"]).startswith(b"You descend the stairs.")
        assert env.message(observation).startswith(b"You descend the stairs.")
        paid += [reward, env.step(KEY["s"])[1]]
        again = env.step(KEY["<"])[1], env.step(KEY[">"])[1]
        assert again == (0.0, 0.0)
    assert paid == [50.0 if (level, step) == (target - 1, 0) else 0.0 for level in (1, 2, 3) for step in (0, 1)]


def test_success_ends_the_episode_unless_it_is_continual():
    env = tasks.StaircaseLvl2(wizard=True)
    on_stairs(env, 1)
    _, reward, terminated, truncated, info = env.step(KEY[">"])
    assert (reward, terminated, truncated) == (50.0, True, False)
    assert info["end_reason"] == "success"
    assert info["episode_sums"]["success"] == 1.0
    assert info["episode_sums"]["depth"] == 2.0


def test_falling_to_the_level_does_not_pay():
    env = tasks.StaircaseLvl3(wizard=True)
    env.reset(seed=0)
    env.game.press(LEVEL_TELEPORT % 3)
    rewards = [env.step(KEY["s"])[1] for _ in range(5)]
    assert env.view.stats[view.DUNGEON_LEVEL] == 3
    assert rewards == [0.0] * 5


def test_another_branch_counts_its_own_levels():
    """The first level of the Mines is deeper than 2, and yet level 1 of its branch."""
    env = tasks.StaircaseLvl3(wizard=True)
    for seed in range(200):
        env.reset(seed=seed)
        env.game.press(LEVEL_TELEPORT % 2 + MAP)
        for _ in range(8):
            while env.view.pending[3]:
                env.game.press(b" ")
            env.game.press(b"_>.")
            if env.view.pending[4]:
                break
        else:
            continue
        _, reward, *_ = env.step(KEY[">"])
        if env.view.stats[view.DUNGEON] != 0:
            break
    assert env.view.stats[view.DEPTH] == 3
    assert env.view.stats[view.DUNGEON_LEVEL] == 1
    assert reward == 0.0


def beside_the_oracle(task):
    env = task(wizard=True)
    env.reset(seed=3)
    env.game.press(GENESIS % b"Oracle")
    return env


def drink(env, potion: bytes) -> None:
    env.game.press(WISH % (b"uncursed potion of " + potion))
    letter = env.view.text()[:1]
    env.game.press(b"q" + letter)
    while env.view.pending[3]:
        env.game.press(b" ")


def show_her(env) -> None:
    """What hallucination does by chance: something next to the hero looks like the Oracle."""
    x, y = env.view.stats[view.X], env.view.stats[view.Y]
    env.view.buffers["glyphs"][y, x + 1] = tasks.ORACLE_GLYPH


@pytest.mark.parametrize("task", [tasks.Oracle, tasks.OracleSober])
def test_meeting_the_oracle_pays(task):
    _, reward, terminated, _, info = beside_the_oracle(task).step(KEY["s"])
    assert (reward, terminated, info["end_reason"]) == (50.0, True, "success")


@pytest.mark.parametrize("other", [None, b"confusion", b"blindness"])
def test_a_hallucinated_oracle_pays_the_plain_task_only(other):
    """With and without a further condition: hallucination is one bit of several (comparing for equality would miss it)."""
    for task, pays in ((tasks.Oracle, True), (tasks.OracleSober, False)):
        env = task(wizard=True)
        env.reset(seed=3)
        drink(env, b"hallucination")
        if other:
            drink(env, other)
        show_her(env)
        condition = env.view.stats[view.CONDITION]
        assert condition & view.HALLUCINATING
        assert (condition != view.HALLUCINATING) == bool(other)
        assert env.succeeded() == pays


def test_a_confused_hero_is_sober():
    env = tasks.OracleSober(wizard=True)
    env.reset(seed=3)
    drink(env, b"confusion")
    show_her(env)
    assert env.view.stats[view.CONDITION]
    assert env.succeeded()


@pytest.mark.parametrize("corner", [(0, 0), (78, 20)])
def test_the_oracle_is_seen_from_the_edge_of_the_map(corner):
    env = beside_the_oracle(tasks.Oracle)
    x, y = env.view.stats[view.X], env.view.stats[view.Y] = corner
    env.view.buffers["glyphs"][...] = 0
    assert not env.succeeded()
    env.view.buffers["glyphs"][max(0, y - 1), max(0, x - 1)] = tasks.ORACLE_GLYPH
    assert env.succeeded()


def test_a_time_out_is_truncated_and_death_is_terminated():
    env = tasks.Score(max_episode_steps=5)
    env.reset(seed=0)
    ends = [env.step(KEY["s"])[2:] for _ in range(5)]
    assert [(terminated, truncated) for terminated, truncated, _ in ends] == [(False, False)] * 4 + [(False, True)]
    assert ends[-1][2]["end_reason"] == "time"

    env, rng = tasks.Score(), np.random.default_rng(0)
    env.reset(seed=0)
    terminated = False
    while not terminated:
        *_, terminated, truncated, info = env.step(int(rng.integers(28)))
        assert not truncated
    assert info["end_reason"] == "death"
    assert info["episode_sums"]["experience_level"] >= 1.0


@pytest.mark.parametrize("actions", [28, 23])
def test_one_seed_is_one_game_and_another_seed_another(actions):
    def played(seed):
        env, rng, seen = tasks.Oracle(), np.random.default_rng(1), []
        env.reset(seed=seed)
        for _ in range(300):
            observation, reward, terminated, *_ = env.step(int(rng.integers(actions)))
            seen.append((env.view.buffers["glyphs"].tobytes(), *(a.tobytes() for a in observation.values()), reward))
            if terminated:
                break
        return seen

    assert played(7) == played(7)
    assert played(7)[0] != played(8)[0]


def test_a_game_starts_on_a_scroll_that_crumbles_and_wants_a_name():
    env = tasks.RewardFree()
    env.game.reset(433368064, 513200635)
    assert env.view.stats[view.TIME] == 1
    assert not any(env.view.pending[1:4])
    assert bytes(env.view.text()).strip(b" ") == b""  # nothing of the question is left


def test_a_seeded_game_does_not_depend_on_the_games_before():
    env = tasks.Score()
    first = env.reset(seed=5)[0]["chars"].copy()
    for seed in range(4):
        env.reset(seed=seed)
        env.step(KEY["q"])
    np.testing.assert_array_equal(env.reset(seed=5)[0]["chars"], first)
    assert (env.reset()[0]["chars"] != first).any()


def test_the_game_and_its_score_are_those_of_stock_nle():
    """Everything but eating, where a question is answered for the agent; 28 keys in both."""
    theirs = stock.NetHackScore(observation_keys=("chars", "colors", "blstats", "message", "glyphs"), actions=ACTIONS, fix_moon_phase=True)
    ours, rng = tasks.Score(), np.random.default_rng(0)
    meals = {KEY["e"], KEY["q"], KEY["Z"]}
    allowed, deaths = [a for a in range(28) if a not in meals], 0
    for seed in range(20):
        ours.reset(seed=seed)
        theirs.seed(*(int(s) for s in np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).integers(2**31, size=2)), False)
        expected, _ = theirs.reset()
        tiles: dict[tuple[int, int], int] = {}
        for _ in range(300):
            for key in ("chars", "colors", "blstats", "message"):
                np.testing.assert_array_equal(ours.view.buffers[key], expected[key])
            _, _, *_, dungeon, level, _, _ = expected["blstats"]
            tiles[dungeon, level] = int(np.sum(expected["glyphs"] != stock.nethack.GLYPH_CMAP_OFF))
            action = int(rng.choice(allowed))
            expected, reward, done, *_ = theirs.step(action)
            _, our_reward, terminated, _, info = ours.step(action)
            assert (our_reward, terminated) == (pytest.approx(reward), done)
            if done:
                deaths += 1
                assert info["episode_sums"]["tiles_seen"] == sum(tiles.values())
                break
    assert deaths > 3


def crop_of(full, x, y):
    padded = np.pad(full, 12)
    return padded[y + 6 : y + 18, x + 6 : x + 18]


@pytest.mark.parametrize("seed", range(5))
def test_the_crop_is_the_map_round_the_hero(seed):
    env, rng = tasks.Score(), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    for _ in range(200):
        x, y = (int(v) for v in observation["stats"][:2])
        for key in ("chars", "colors"):
            np.testing.assert_array_equal(observation[key], crop_of(env.view.buffers[key], x, y))
        np.testing.assert_array_equal(observation["stats"], env.view.buffers["blstats"])
        observation, _, terminated, *_ = env.step(int(rng.integers(23)))
        if terminated:
            break


def test_the_crop_is_right_in_every_corner():
    sight = view.View()
    rng = np.random.default_rng(0)
    for key in ("chars", "colors"):
        sight.buffers[key][...] = rng.integers(1, 16, size=(21, 79))
    for x, y in [(0, 0), (78, 0), (0, 20), (78, 20), (40, 10), (5, 15)]:
        sight.buffers["blstats"][:2] = x, y
        sight.look()
        for key in ("chars", "colors"):
            np.testing.assert_array_equal(sight.observation[key], crop_of(sight.buffers[key], x, y))


def test_views_looked_at_together_are_each_as_looked_at_alone():
    sights = [view.View() for _ in range(6)]
    seen = {name: np.full((6, *spec.shape), 99, spec.dtype) for name, spec in view.OBSERVATIONS.items()}
    together = view.Views(sights, seen)
    rng = np.random.default_rng(0)
    for sight, corner in zip(sights, [(0, 0), (78, 0), (0, 20), (78, 20), (40, 10), (5, 15)], strict=True):
        for buffer in sight.buffers.values():
            buffer[...] = rng.integers(1, 16, size=buffer.shape)
        sight.buffers["blstats"][:2] = corner
    kept = [b"", b"You descend the stairs.", b"", b"", b"x" * view.MESSAGE, b""]
    together.look(kept)
    for k, sight in enumerate(sights):
        sight.look(kept[k])
        for name, array in seen.items():
            np.testing.assert_array_equal(array[k], sight.observation[name])


def test_games_of_one_sampler_are_seen_as_the_same_games_alone():
    """Also across the ends of episodes, and the last observation of one that was cut off."""
    num_envs, make = 3, agent_env_factory("nethack_score", {"max_episode_steps": 40})
    sampler = VectorSampler(make, num_envs, seed=0)
    sampler.reset()
    alone, rng, cut, numbers = [make() for _ in range(num_envs)], np.random.default_rng(0), 0, [0] * num_envs
    begin = lambda k: alone[k].reset(seed=int(np.random.SeedSequence([0, k, numbers[k]]).generate_state(1, np.uint32)[0]) >> 1)[0]
    wanted = [begin(k) for k in range(num_envs)]
    for _ in range(150):
        for k in range(num_envs):
            for name, array in sampler.observations().items():
                np.testing.assert_array_equal(array[k], wanted[k][name])
        actions = rng.integers(28, size=num_envs)
        result = sampler.step(actions)
        for k in range(num_envs):
            wanted[k], _, terminated, truncated, _ = alone[k].step(int(actions[k]))
            assert (terminated, truncated) == (result.terminated[k], result.truncated[k])
            if truncated:
                cut += 1
                for name, array in result.last_observations[k].items():
                    np.testing.assert_array_equal(array, wanted[k][name])
            if terminated or truncated:
                numbers[k] += 1
                wanted[k] = begin(k)
    assert cut >= 6


def test_eight_interleaved_games_count_messages_as_each_would_alone():
    """Criterion: exactly the per-environment counts over 20k steps, across episodes."""
    num_envs, steps = 8, 2500
    sampler = VectorSampler(agent_env_factory("nethack_score", {"max_episode_steps": 300}), num_envs, seed=0)
    sampler.reset()
    rng = np.random.default_rng(0)
    counts, episodes = [{} for _ in range(num_envs)], 0
    for _ in range(steps):
        for k in range(num_envs):
            text = bytes(sampler.observations()["message"][k]).rstrip(b"\0")
            counts[k][text] = counts[k].get(text, 0) + 1
            assert sampler.message_hash[k] == message_hash(text)
            assert sampler.message_count[k] == counts[k][text]
        result = sampler.step(rng.integers(28, size=num_envs))
        for k in np.flatnonzero(result.terminated | result.truncated):
            counts[k], episodes = {}, episodes + 1
    assert episodes > 50
    assert sampler.spec.nbytes <= 1500


@pytest.mark.parametrize("name", [name for name in AGENT_ENVS if name.startswith("nethack")])
def test_every_task_plays_from_its_name(name):
    sampler = VectorSampler(agent_env_factory(name, {"max_episode_steps": 50}), 2, seed=0)
    sampler.reset()
    rng = np.random.default_rng(0)
    for _ in range(120):
        result = sampler.step(rng.integers(28, size=2))
        assert name == "nethack_score" or not result.rewards.any()
    assert sampler.spec.num_actions == 28
    sampler.close()


def test_nethack_plays_where_nobody_is_logged_in():
    code = "from rayrl.envs.nethack.tasks import Score; e = Score(); e.reset(seed=0); e.step(1); e.close(); print('played')"
    alone = {k: v for k, v in os.environ.items() if k != "USER"}
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "played", done.stderr
    assert "USER" not in done.stderr


def test_many_unfinished_games_do_not_pile_up_in_memory():
    def resident() -> int:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    env = tasks.Score()
    for seed in range(50):
        env.reset(seed=seed)
    before = resident()
    for seed in range(400):
        env.reset(seed=seed)
        env.step(KEY["s"])
    assert resident() - before < 400 * 1024


def test_running_games_are_taken_up_where_they_were():
    """By a process of its own: a game keeps more than its seed and keys in the process that plays it."""
    code = """
import json, sys
import numpy as np
from rayrl.agent_types import RunningEpisodes
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler
sampler = VectorSampler(agent_env_factory("nethack_score", {}), 2, seed=int(sys.argv[1]))
sampler.reset()
actions = np.random.default_rng(0).integers(sampler.spec.num_actions, size=(400, 2))
if len(sys.argv) > 2:
    sampler.replay(RunningEpisodes.from_json(json.load(open(sys.argv[2]))))
else:
    for now in actions[:300]:
        sampler.step(now)
    json.dump(sampler.running().to_json(), sys.stderr)
for now in actions[300:]:
    result = sampler.step(now)
    print(sampler.message_hash.tolist(), sampler.message_count.tolist(), result.rewards.tolist(), result.terminated.tolist())
for name, rows in sorted(sampler.observations().items()):
    print(name, rows.tolist())
"""
    straight = subprocess.run([sys.executable, "-c", code, "5"], capture_output=True, text=True, timeout=120, check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as saved:
        saved.write(straight.stderr)
        saved.flush()
        resumed = subprocess.run([sys.executable, "-c", code, "6", saved.name], capture_output=True, text=True, timeout=120, check=True)
    assert straight.stdout.splitlines() == resumed.stdout.splitlines() and len(straight.stdout.splitlines()) > 100
