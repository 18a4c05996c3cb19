"""ONI's tasks on NetHack (arXiv 2410.23022; `Score` is the Score task of the NetHack Learning Environment, arXiv 2006.13760).

| task | reward | ends |
| --- | --- | --- |
| Score | difference of the in-game score, -0.01 where the game's clock stood still | death or time |
| StaircaseLvl2, 3, 4 | 50 once, for descending the stairs to that level of its branch | success, death or time |
| Oracle | 50 once, next to the Oracle | success, death or time |
| OracleSober | the same, but not while hallucinating, when anything may look like her | success, death or time |
| RewardFree | 0 | death or time |

With ``continual`` an episode goes on after its success. Time is ``max_episode_steps`` actions and counts as truncation. The last
step's ``info`` says ``end_reason`` (success, death, time) and ``episode_sums``: success, depth, gold and experience level at their
highest, tiles_seen over all levels visited, kills.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from nle import nethack
from numpy.typing import NDArray

from rayrl.agent_types import ArrayKind, EnvSpec
from rayrl.envs.nethack import view
from rayrl.envs.nethack.game import DESCENDED, Game
from rayrl.envs.nethack.view import View, Views

SUCCESS_REWARD = 50.0
ORACLE_GLYPH = 270

_COMMAND = nethack.Command
ACTIONS: tuple[int, ...] = tuple(
    int(a)
    for a in (
        *(nethack.MiscAction.MORE, *nethack.CompassDirection, *nethack.CompassDirectionLonger, *nethack.MiscDirection),
        *(_COMMAND.KICK, _COMMAND.EAT, _COMMAND.SEARCH),
        *(_COMMAND.CAST, _COMMAND.QUAFF, _COMMAND.PRAY, _COMMAND.PICKUP, _COMMAND.PAY),
    )
)
"""The 28 keys: the Score task's 23, then cast, quaff, pray, pick up, pay."""

_SPEC = EnvSpec(view.OBSERVATIONS, len(ACTIONS))


class NetHack(gym.Env[dict[str, NDArray[Any]], Any]):
    """Base of the tasks; fulfils `protocols.AgentEnv`. Observations are buffers that the next call overwrites."""

    metadata: dict[str, Any] = {"render_modes": []}
    has_terminal = True
    """Whether ``terminal`` can be asked for, so that an episode can be watched."""
    sees_glyphs = False
    """Whether the task looks at the map of glyphs."""

    def __init__(
        self,
        *,
        character: str = "mon-hum-neu-mal",
        max_episode_steps: int = 5000,
        continual: bool = False,
        terminal: bool = False,
        wizard: bool = False,
    ) -> None:
        """``terminal`` keeps the 24 x 80 terminal for `frame`; ``wizard`` is NetHack's debug mode (tests)."""
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}")
        self.agent_spec = _SPEC
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = spaces.Dict({name: _space(name) for name in view.OBSERVATIONS})
        self._max_steps, self._continual, self._terminal = max_episode_steps, continual, terminal
        self.view = View(glyphs=self.sees_glyphs, terminal=terminal)
        self.game = Game(self.view, character, wizard=wizard)
        self._score = self._time = 0
        self._success = False
        self._looks = True
        """Whether a step refreshes this environment's own observation."""
        self._begin()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Without a seed the next game is drawn from the generator that the last seed set, as everywhere in Gymnasium."""
        super().reset(seed=seed)
        core, display = (int(s) for s in self.np_random.integers(2**31, size=2))
        self.game.reset(core, display)
        self._begin()
        self._notice()
        if self._looks:
            self.view.look()
        return self.view.observation, {}

    def step(self, action: int) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        game, stats = self.game, self.view.stats
        self._steps += 1
        over = game.act(ACTIONS[action])
        reward = 0.0
        if not over:
            reward = self.reward()
            self._notice()
            if not self._success and self.succeeded():
                self._success, reward = True, SUCCESS_REWARD
                over = not self._continual
        if self._looks:
            self.view.look(game.kept)
        late = self._steps >= self._max_steps and not over
        self._score, self._time = stats[view.SCORE], stats[view.TIME]
        return self.view.observation, reward, over, late, self._ending(late) if over or late else {}

    @staticmethod
    def together(envs: Sequence[NetHack], observations: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """See `protocols.AgentEnv`."""
        views = Views([env.view for env in envs], observations)
        for env in envs:
            env.game.use_buffers()
            env._looks = False
        return lambda: views.look([env.game.kept for env in envs])

    def message(self, observation: Any) -> bytes:
        return self.game.message

    def reward(self) -> float:
        """Of a step that did not end the game."""
        return 0.0

    def succeeded(self) -> bool:
        """Whether the task is done in the present state."""
        return False

    def frame(self) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.uint8]]:
        """The terminal: characters uint8[24, 80], colours int8[24, 80], cursor uint8[2]. Only with ``terminal``; buffers."""
        if not self._terminal:
            raise RuntimeError("this environment was built without terminal=True")
        buffers = self.view.buffers
        return buffers["tty_chars"], buffers["tty_colors"], buffers["tty_cursor"]

    def close(self) -> None:
        self.game.close()

    def _begin(self) -> None:
        stats = self.view.stats
        self._steps, self._success = 0, False
        self._score, self._time = stats[view.SCORE], stats[view.TIME]
        self._depth = self._gold = self._level = 0
        self._tiles: dict[tuple[int, int], int] = {}

    def _notice(self) -> None:
        """Keeps what an episode is known by; after death the status line is empty."""
        stats = self.view.stats
        depth, gold, level = stats[view.DEPTH], stats[view.GOLD], stats[view.LEVEL]
        if depth > self._depth:
            self._depth = depth
        if gold > self._gold:
            self._gold = gold
        if level > self._level:
            self._level = level
        self._tiles[stats[view.DUNGEON], stats[view.DUNGEON_LEVEL]] = self.view.tiles_seen()

    def _ending(self, late: bool) -> dict[str, Any]:
        reason = "time" if late else "success" if self._success and not self._continual else "death"
        sums = {
            "success": float(self._success),
            "depth": float(self._depth),
            "gold": float(self._gold),
            "experience_level": float(self._level),
            "tiles_seen": float(sum(self._tiles.values())),
            "kills": float(self.game.kills),
        }
        return {"end_reason": reason, "episode_sums": sums}


class Score(NetHack):
    def reward(self) -> float:
        stats = self.view.stats
        penalty = -0.01 if stats[view.TIME] == self._time else 0.0
        return stats[view.SCORE] - self._score + penalty


class RewardFree(NetHack):
    pass


class StaircaseLvl2(NetHack):
    target = 2

    def succeeded(self) -> bool:
        return self.view.stats[view.DUNGEON_LEVEL] == self.target and self.game.message.startswith(DESCENDED)


class StaircaseLvl3(StaircaseLvl2):
    target = 3


class StaircaseLvl4(StaircaseLvl2):
    target = 4


class Oracle(NetHack):
    sees_glyphs = True

    def succeeded(self) -> bool:
        x, y = self.view.stats[view.X], self.view.stats[view.Y]
        around = self.view.buffers["glyphs"][max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        return bool((around == ORACLE_GLYPH).any())


class OracleSober(Oracle):
    def succeeded(self) -> bool:
        return not self.view.stats[view.CONDITION] & view.HALLUCINATING and super().succeeded()


def _space(name: str) -> spaces.Box:
    spec = view.OBSERVATIONS[name]
    dtype = np.dtype(spec.dtype).type
    if spec.kind is ArrayKind.NUMBERS:
        info = np.iinfo(spec.dtype)
        return spaces.Box(info.min, info.max, spec.shape, dtype)
    return spaces.Box(0, spec.categories - 1, spec.shape, dtype)
