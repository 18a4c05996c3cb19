"""Messages like those of a dungeon game, and what a judge who likes fights, gold and levels would say of them.

A template is an event told in a frame. Some cells of that grid are held out: their events occur in other frames and their frames
tell other events, but no label ever comes from their wording.
"""

from __future__ import annotations

import random
from typing import NamedTuple

MONSTERS = [
    "jackal",
    "newt",
    "rat",
    "goblin",
    "kobold",
    "gnome",
    "dwarf",
    "orc",
    "lichen",
    "imp",
    "bat",
    "snake",
    "soldier",
    "zombie",
    "ape",
    "wolf",
    "centaur",
    "troll",
    "ogre",
    "hound",
]
THINGS = [
    "door",
    "fountain",
    "altar",
    "staircase",
    "boulder",
    "corridor",
    "throne",
    "sink",
    "grave",
    "statue",
    "tree",
    "wall",
    "lamp",
    "candle",
    "scroll",
    "potion",
    "dagger",
]
ADJECTIVES = ["", "", "", "large ", "small ", "invisible ", "tame ", "rotten ", "cursed ", "giant ", "hairy "]

GOOD = [
    "you kill the {a}{m}!",
    "you destroy the {a}{m}!",
    "you hit the {a}{m}.",
    "you smite the {a}{m}.",
    "you slay the {a}{m}!",
    "you find {n} gold pieces.",
    "you pick up {n} gold pieces.",
    "welcome to experience level {l}.",
]
DULL = [
    "you miss the {a}{m}.",
    "you see the {a}{t} here.",
    "you hear the {a}{m} far away.",
    "you swap places with the {a}{m}.",
    "you bump into the {a}{t}.",
    "the {a}{t} is locked.",
    "the {a}{m} bites!",
    "there is a {a}{t} here.",
]
FRAMES = [
    "{e}",
    "Suddenly {e}",
    "You swing your sword and {e}",
    "As you turn round, {e}",
    "{e}  You feel hungry.",
    "{e}  It is dark.",
    "You hear a door open;  {e}",
    "Oops!  {e}",
    "{e}  The {m} turns to flee.",
    "In the flickering light {e}",
    "You stop.  {e}",
    "{e}  You have a strange feeling.",
]
EVENTS = [(e, 1.0) for e in GOOD] + [(e, 0.0) for e in DULL]
CELLS = [(frame, event) for frame in range(len(FRAMES)) for event in range(len(EVENTS))]
HELD_OUT = frozenset((frame, event) for frame, event in CELLS if (frame + 3 * event) % 4 == 0)
"""A quarter of the templates: three frames of every event, four events of every frame."""


class Message(NamedTuple):
    text: str
    label: float


def messages(count: int, *, held_out: bool, seed: int = 0) -> list[Message]:
    """Distinct messages, from held-out templates or from the others."""
    rng = random.Random(f"{seed}/{held_out}")
    cells = [cell for cell in CELLS if (cell in HELD_OUT) == held_out]
    found: dict[str, Message] = {}
    while len(found) < count:
        frame, place = rng.choice(cells)
        event, label = EVENTS[place]
        told = event if FRAMES[frame].find("{e}") else event[0].upper() + event[1:]
        words = {
            "a": rng.choice(ADJECTIVES),
            "m": rng.choice(MONSTERS),
            "t": rng.choice(THINGS),
            "n": rng.randrange(2, 900),
            "l": rng.randrange(2, 30),
        }
        text = FRAMES[frame].replace("{e}", told).format(**words)
        found.setdefault(text, Message(text, label))
    return list(found.values())
