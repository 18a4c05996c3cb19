"""The stand-in's opinions, as data: which words of a message count for which goal. Frozen: changing them changes `digest`.

No rule names the message of a task's success; otherwise a sparse reward would only be handed out under another name.
"""

from __future__ import annotations

import hashlib
import json
import re

COMBAT = (
    r"^you (kill|destroy|hit|slay|smite|bite|kick|strike) ",
    r"\b(is|are) (killed|destroyed|slain)\b",
    r"\bdies\b",
    r"\byou (kill|destroy) it\b",
)
GOLD = (r"\bgold pieces?\b", r"^\$ - ", r"\bhear .*(counting money|coins)\b")
STAIRS = (r"\bstaircase\b", r"\bladder (up|down)\b", r"\btrap ?door\b")
SCORE = (
    r"\bwelcome to experience level\b",
    r"\byou feel (stronger|tough|agile|wise|charismatic|healthy|a strange sense of loss)\b",
    r"\bfinish eating\b",
)
PROGRESS = (r"\bunlock\b", r"\bdiscover\b", r"\bsolved?\b", r"\bfor the first time\b")

GOALS: dict[str, tuple[str, ...]] = {
    "combat": COMBAT,
    "gold": GOLD,
    "stairs": STAIRS,
    "score": (*COMBAT, *GOLD, *STAIRS, *SCORE),
    "progress": PROGRESS,
}
"""Patterns, any of which makes a message a good one."""

CUES: tuple[tuple[str, str], ...] = (
    (r"\bto fight\b|\bcombat\b|\bdefeating monsters is all\b", "combat"),
    (r"\bto become rich\b|\bgold is all\b", "gold"),
    (r"\bway down\b|\busing stairs is all\b", "stairs"),
    (r"\bmake progress\b", "progress"),
)
"""What a goal's sentence says, and the rules that it means; any other sentence, and none, means score."""

digest = hashlib.sha256(json.dumps([GOALS, CUES]).encode()).hexdigest()[:16]


def goal_of(sentence: str) -> str:
    """The rules that a goal's sentence asks for."""
    return next((goal for cue, goal in CUES if re.search(cue, sentence, re.IGNORECASE)), "score")


def is_good(message: str, goal: str) -> bool:
    return any(re.search(pattern, message, re.IGNORECASE) for pattern in GOALS[goal])


def quality(message: str, goal: str) -> int:
    """How many of the goal's rules a message meets: what a comparison goes by."""
    return sum(bool(re.search(pattern, message, re.IGNORECASE)) for pattern in GOALS[goal])
