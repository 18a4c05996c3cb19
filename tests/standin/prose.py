"""How an opinion is put into words, and all the ways in which judges spoil their answers."""

from __future__ import annotations

import random

FAULTS = ("malformed", "refusing", "overlong", "contradictory")

_OPENINGS = (
    "NetHack is a game of patience, and most lines of text report little of consequence.",
    "Let me look at what is actually stated, and at nothing else.",
    "What matters here is the goal that was given, so that is what I compare with.",
    "I read the text twice; it leaves little room for interpretation.",
)
_REASONS = (
    "It may look like FOO or BAR at first, but the wording settles it.",
    "One could argue about details, yet the direction is clear.",
    "There is 1 thing to note and perhaps 2, none of which changes the outcome.",
    "I do not know what happened before or after, and I assume nothing.",
)
_REFUSALS = (
    "I'm sorry, but I can't judge this text.",
    "As an AI, I do not feel comfortable rating the actions of others.",
    "I cannot help with that request.",
    "I must decline to take part in a comparison.",
)
_OTHER = {"score": "3", "label": "BAR", "best": "2", "ranking": "1, 2", "steps": "bad"}
_OTHERS = {"score": "8", "label": "FOO", "best": "1", "ranking": "2, 1", "steps": "good"}


def write(tag: str, content: str, rng: random.Random, fault: str = "") -> tuple[str, bool]:
    """The answer's text, and whether it ran into the token limit."""
    prose = f"{rng.choice(_OPENINGS)} {rng.choice(_REASONS)}"
    proper = f"{prose}\n<{tag}>{content}</{tag}>"
    if fault == "malformed":
        spoiled = (
            f"{prose}\n<{tag}>{content}",
            f"{prose}\nMy answer: {content}",
            f"{prose}\n<answer>{content}</answer>",
            f"{prose}\n<{tag}>rather {content}, I would say</{tag}>",
            f"{proper}\nOn second thought, I am not sure.",
            "",
        )
        return rng.choice(spoiled), False
    if fault == "refusing":
        return rng.choice(_REFUSALS), False
    if fault == "overlong":
        return (prose + " ") * 200, True
    if fault == "contradictory":
        other = _OTHER[tag] if content != _OTHER[tag] else _OTHERS[tag]
        return f"{proper}\nNo, wait: <{tag}>{other}</{tag}>", False
    return proper, False
