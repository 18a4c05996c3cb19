"""Which keys follow from one action: the game answers from a script, and what was pressed is compared with what should have been."""

import pytest

pytest.importorskip("nle", reason="NetHack needs the extra 'nethack'")

import numpy as np

from rayrl.envs.nethack import tasks
from rayrl.envs.nethack.game import Game
from rayrl.envs.nethack.tasks import ACTIONS
from rayrl.envs.nethack.view import View

CALM, QUESTION, TEXT, MORE = 0, 1, 2, 3
KEY = {chr(key): action for action, key in enumerate(ACTIONS) if key < 128}


class ScriptedEngine:
    """Shows one (message, what it waits for) after each key, and nothing after the last."""

    def __init__(self, view: View, *states: tuple[bytes, int]) -> None:
        self._view, self._states, self.pressed = view, list(states), b""

    def step(self, key: int) -> None:
        self.pressed += bytes([key])
        text, waits = self._states.pop(0) if self._states else (b"", CALM)
        self._view.buffers["message"][...] = np.frombuffer(text.ljust(256, b"\0"), np.uint8)
        self._view.buffers["internal"][...] = 0
        if waits:
            self._view.buffers["internal"][waits] = 1

    def done(self) -> bool:
        return False


def pressed(action: str, *states: tuple[bytes, int], before: tuple[bytes, int] | None = None) -> tuple[bytes, bytes, Game]:
    """Keys sent for ``action``, and the message that the agent reads."""
    game = Game.__new__(Game)
    game.view, game.kills, game.message, game.kept = View(), 0, b"", b""
    game._engine = ScriptedEngine(game.view, *([before] if before else []), *states)
    if before:
        game._engine.step(0)
        game._engine.pressed = b""
    game.act(ord(action))
    return game._engine.pressed, game.message, game


@pytest.mark.parametrize(
    ("before", "action", "key"),
    [
        (b"What do you want to eat? [ghij or ?*] ", "y", b"g"),
        (b"What do you want to eat? [ghij or ?*] ", "h", b"\x1b"),
        (b"What do you want to eat? [*]", "y", b"\x1b"),
        (b"There is a lichen corpse here; eat it? [ynq] (n) ", "y", b"y"),
        (b"There is a lichen corpse here; eat it? [ynq] (n) ", "j", b"\x1b"),
        (b"There are 2 food rations here; eat one? [ynq] (n) ", "y", b"y"),
        (b"What do you want to drink? [e or ?*] ", "y", b"e"),
        (b"Drink from the fountain? [yn] (n) ", "y", b"y"),
        (b"Drink from the fountain? [yn] (n) ", "s", b"\x1b"),
        (b"In what direction? ", "j", b"j"),
        (b"Really attack the little dog? [yn] (n) ", "y", b"y"),
        (b"Really attack the giant beaver? [yn] (n) ", "j", b"j"),
        (b"Are you sure you want to pray? [yn] (n) ", "y", b"y"),
    ],
)
def test_a_waiting_question_gets_the_right_key(before, action, key):
    assert pressed(action, before=(before, QUESTION))[0] == key


@pytest.mark.parametrize(
    ("states", "keys"),
    [
        ([(b"Call a red potion:", TEXT)], b"s\x1b"),
        ([(b"Beware, there will be no return!  Still climb? [yn] (n) ", QUESTION)], b"s\x1b"),
        ([(b"Pay? [yn] (n) ", QUESTION)], b"s\x1b"),
        ([(b"In what direction? ", QUESTION)], b"s"),
        ([(b"Really attack the little dog? [yn] (n) ", QUESTION)], b"s"),
        ([(b"It hits!", MORE), (b"It misses.", MORE), (b"You miss it.", CALM)], b"s  "),
        ([(b"Do you want to call it? [yn] (n) ", QUESTION), (b"Some more", MORE)], b"s\x1b "),
    ],
)
def test_what_the_game_asks_by_itself_is_answered(states, keys):
    assert pressed("s", *states)[0] == keys


def test_casting_takes_the_first_spell():
    assert pressed("Z", (b"", MORE), (b"In what direction? ", QUESTION))[0] == b"Za"
    assert pressed("Z", (b"You don't know any spells right now.", CALM))[0] == b"Z"


def test_more_confidence_is_turned_into_a_skill():
    confident = b"You feel more confident in your fighting skills."
    keys, message, _ = pressed("j", (confident, CALM), (b"", MORE), (b"You are now more skilled in martial arts.", CALM))
    assert keys == b"j" + bytes([0x80 | ord("e")]) + b"a"
    assert message == confident


def test_only_the_message_of_the_stairs_is_kept_behind_a_more():
    keys, message, _ = pressed(">", (b"You descend the stairs.", MORE), (b"", CALM))
    assert (keys, message) == (b"> ", b"You descend the stairs.")
    assert pressed("s", (b"The door opens.", MORE), (b"", CALM))[1] == b""


def test_kills_are_counted_in_every_message_on_the_way():
    *_, game = pressed("j", (b"You kill the newt!  You kill it!", MORE), (b"You destroy the skeleton!", MORE), (b"Killed by it?", CALM))
    assert game.kills == 3


def test_a_game_that_never_stops_asking_is_left_alone():
    keys, _, _ = pressed("s", *[(b"Pay? [yn] (n) ", QUESTION)] * 5000)
    assert len(keys) < 2000


def test_there_are_28_keys():
    assert len(ACTIONS) == len(set(ACTIONS)) == 28
    assert tasks.ACTIONS[23:] == (ord("Z"), ord("q"), 0x80 | ord("p"), ord(","), ord("p"))
