"""A small world with one reward at its far end and a message at every step: plain Gymnasium, no game, no package but Gymnasium.

The agent wakes in the first of ``length`` rooms. Of five exits one leads on, always the same one in the same room; the others lead
back by one room. In the first five rooms, the next five and so on each exit leads on once: one that is of no use for long is one that a
policy unlearns everywhere, and does not try where it is the way. A sixth action listens at the door and hears one of thousands of
rumours. The last exit is the only reward (1), so random play, and learning from the reward alone, never find it. What tells the way are
the messages: going on unlocks something and says so; going back and rumours are of no use, and rumours are far more novel than progress,
so curiosity alone ends at the door.

``info["episode_sums"]`` holds ``success`` (0 or 1) and ``deepest`` (rooms behind the agent at its best).
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

EXITS = 5
LISTEN = EXITS
_LONGEST_MESSAGE = 96

_ROOMS = (
    *("cellar", "guard room", "flooded crypt", "old armoury", "bone chapel", "kennels", "pantry", "dusty library", "wine vault"),
    *("throne hall", "aviary", "clock tower", "smithy", "infirmary", "map room", "stables", "orangery", "gatehouse"),
)
_LOCKS = ("rusty gate", "oak door", "iron grate", "stone seal", "brass lock", "silver chain", "trapdoor", "hidden panel")
_BACK = ("The passage bends", "You take a wrong turn", "You slip on wet stairs", "A draught misleads you")
_WHO = ("old man", "jailer", "cook", "ghost", "merchant", "rat catcher", "bishop", "twin", "beggar", "knight", "nurse", "poet")
_DOES = ("whispers about", "sings of", "complains about", "dreams of", "quarrels over", "laughs about", "counts", "prays for")
_WHAT = (
    "cheese",
    "the weather",
    "lost socks",
    "a grey cat",
    "taxes",
    "the moon",
    "soup",
    "wooden spoons",
    "bad knees",
    "an aunt",
    "rain",
    "tea",
)
_WHERE = ("behind the wall", "far below", "in a low voice", "next door", "upstairs", "in the dark", "at length", "once more")


class Chain(gym.Env[dict[str, Any], Any]):
    """Observation: ``room`` (index), ``left`` (share of the steps still to go), ``message``. Ends: ``success`` or ``time``."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, length: int = 12, max_steps: int = 60, layout: int = 0, locks: int = 2) -> None:
        """``layout`` seeds which exit leads on in each room. ``locks``: names that a door's lock goes by, drawn anew each time; the more
        there are, the better going back and forth pays whoever is rewarded for new messages. Raises `ValueError` for a world that cannot
        be crossed in time, or has no such locks."""
        if not 1 <= length <= len(_ROOMS):
            raise ValueError(f"length is {length}; there are 1 to {len(_ROOMS)} rooms")
        if max_steps < length:
            raise ValueError(f"max_steps is {max_steps}: {length} rooms take at least {length}")
        if not 1 <= locks <= len(_LOCKS):
            raise ValueError(f"locks is {locks}; a lock goes by 1 to {len(_LOCKS)} names")
        self._length, self._max_steps = length, max_steps
        self._locks = [tuple(_LOCKS[(room + k) % len(_LOCKS)] for k in range(locks)) for room in range(length)]
        rng = np.random.default_rng(layout)
        self._onward = np.concatenate([rng.permutation(EXITS) for _ in range(0, length, EXITS)]).tolist()
        self.action_space = spaces.Discrete(EXITS + 1)
        self.observation_space = spaces.Dict(
            {
                "room": spaces.Discrete(length),
                "left": spaces.Box(0.0, 1.0, (1,), np.float32),
                "message": spaces.Text(_LONGEST_MESSAGE, min_length=0, charset=string.printable),
            }
        )
        self._room = self._deepest = self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._room = self._deepest = self._steps = 0
        return self._observation(f"You wake up in the {_ROOMS[0]}."), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if action == LISTEN:
            message = f"You hear: the {self._pick(_WHO)} {self._pick(_DOES)} {self._pick(_WHAT)} {self._pick(_WHERE)}."
        elif action == self._onward[self._room]:
            self._room += 1
            self._deepest = max(self._deepest, self._room)
            if self._room == self._length:
                self._room -= 1
                return self._observation("Sunlight!"), 1.0, True, False, self._ending("success")
            message = f"You unlock the {self._pick(self._locks[self._room])} and go deeper, into the {_ROOMS[self._room]}."
        else:
            self._room = max(0, self._room - 1)
            message = f"{self._pick(_BACK)}: you are back in the {_ROOMS[self._room]}."
        late = self._steps >= self._max_steps
        return self._observation(message), 0.0, False, late, self._ending("time") if late else {}

    def _pick(self, words: tuple[str, ...]) -> str:
        return words[int(self.np_random.random() * len(words))]

    def _observation(self, message: str) -> dict[str, Any]:
        left = np.array([1.0 - self._steps / self._max_steps], np.float32)
        return {"room": self._room, "left": left, "message": message}

    def _ending(self, reason: str) -> dict[str, Any]:
        return {"end_reason": reason, "episode_sums": {"success": float(reason == "success"), "deepest": float(self._deepest)}}
