"""One game of NetHack under an agent's keys: seeding, questions, and the --More-- that would hide a message.

What happens between two actions follows ONI's wrapper (arXiv 2410.23022 and its code, behaviour only):

- ``--More--`` and menus are passed with a space, texts are escaped, questions are escaped except about eating, drinking, attacking,
  praying and directions: those wait for the next action;
- to a question about food or drink the key ``y`` picks the first item offered, and every other key cancels;
- casting picks the first spell;
- "You feel more confident" is followed by enhancing the first skill;
- a message "You descend the stairs." that a ``--More--`` follows is kept, since nothing of it would be left after the key.
"""

from __future__ import annotations

import os
import re

from nle import nethack

from rayrl.envs.nethack.view import View

_SPACE, _ESCAPE, _YES = ord(" "), 27, ord("y")
_MOST_KEYS = 1000
"""Keys sent on the game's own wish between two actions, before we give up and let the agent's key go there."""
_WAITING = (b"eat", b"attack", b"direction?", b"pray", b"drink", b"Drink")
_MEAL = re.compile(rb"(?:want to (?:eat|drink)\?|eat (?:it|one)\?|Drink from).*?\[(.)")
_KILL = re.compile(rb"\bYou (?:kill|destroy) ")
DESCENDED = b"You descend the stairs"
_CONFIDENT = b"You feel more confident"
_CAST, _ENHANCE, _QUIT, _FIRST = int(nethack.Command.CAST), int(nethack.Command.ENHANCE), 0x80 | ord("q"), ord("a")


class Game:
    """A NetHack process image with its `View`."""

    def __init__(self, view: View, character: str, *, wizard: bool = False) -> None:
        os.environ.setdefault("USER", "agent")  # NetHack asks for it and complains on a machine without
        # The phase of the moon is the seed's, not the calendar's: it changes luck, and so the episode.
        self._owner = nethack.Nethack((), f"Agent-{character}", ttyrec=None, wizard=wizard, fix_moon_phase=True)
        self._engine = self._owner._pynethack  # the owner adds a tuple and a second call to every step
        self.view = view
        self.use_buffers()
        self.kills = 0
        self.message = self.kept = b""
        """What the agent reads: the last message, or the one that was kept (then both are the same)."""

    def use_buffers(self) -> None:
        """Those that the view has now."""
        self._engine.set_buffers(**self.view.buffers)

    def reset(self, core: int, display: int) -> None:
        """A new game; equal seeds and keys give equal games. Raises `RuntimeError` when the game does not get going."""
        self._quit()
        self._owner.set_initial_seeds(core, display, False)
        self._owner.reset()
        self.kills = 0
        for _ in range(_MOST_KEYS):
            playing = self._engine.in_normal_game()
            if playing and not any(self.view.pending[1:4]):
                self.message, self.kept = self.view.text(), b""
                return
            # A scroll that crumbles under the hero's feet asks at once what to call its kind: spaces would be written into the name.
            self._engine.step(_ESCAPE if playing and not self.view.pending[3] else _SPACE)
        raise RuntimeError(f"NetHack did not start after {_MOST_KEYS} keys (seeds {core}, {display})")

    def act(self, key: int) -> bool:
        """Presses ``key`` and whatever follows from it; True when the game is over."""
        step, pending = self._engine.step, self.view.pending
        if pending[1]:
            key = _answer(self.view.text(), key)
        step(key)
        if key == _CAST and pending[3]:
            step(_FIRST)
        self.kept = b""
        over = self._settle()
        if _CONFIDENT in self.message and not over and not pending[1]:
            said = self.message
            step(_ENHANCE)
            if pending[3]:
                step(_FIRST)
            over = self._settle()
            self.message = self.kept = said
        return over

    def _settle(self) -> bool:
        """Answers what the game asks on the way to the next action; True when the game is over."""
        engine, pending, read = self._engine, self.view.pending, self.view.text
        text = b""
        for _ in range(_MOST_KEYS):
            text = read()
            if b"You " in text:  # many times faster than looking for the words at once
                self.kills += len(_KILL.findall(text))
            if engine.done():
                break
            if pending[3]:
                if text.startswith(DESCENDED):
                    self.kept = text
                engine.step(_SPACE)
            elif pending[2] or (pending[1] and not any(word in text for word in _WAITING)):
                engine.step(_ESCAPE)
            else:
                self.message = self.kept or text
                return False
        self.message = self.kept or text
        return bool(engine.done())

    def _quit(self) -> None:
        """Ends a game that still runs: one that is thrown away instead leaks about 2 kB."""
        engine, pending = self._engine, self.view.pending
        if not engine.in_normal_game():
            return
        for key in (_ESCAPE, _ESCAPE, _QUIT, _YES, *[_ESCAPE] * 20):
            if engine.done():
                return
            engine.step(_SPACE if pending[3] else key)

    def press(self, keys: bytes) -> None:
        """Sends raw keys past all of the above (scripts in wizard mode)."""
        for key in keys:
            self._engine.step(key)

    def close(self) -> None:
        self._owner.close()


def _answer(question: bytes, key: int) -> int:
    """The key that goes to a question that waits."""
    meal = _MEAL.search(question)
    if meal is None:
        return key
    offered = meal[1]
    return offered[0] if key == _YES and offered.isalpha() else _ESCAPE
