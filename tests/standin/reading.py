"""What the stand-in makes of a prompt: what kind of answer is wanted, for which goal, about which texts. All from the text."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS = ("score", "label", "best", "ranking", "steps")
_FENCE = re.compile(r"<<<\n(.*?)\n?>>>", re.DOTALL)
_GOAL = re.compile(r"^.*?(?:goal|what counts|the condition)\b[^:\n]*:\s*(.*)$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    tag: str
    goal: str
    """The goal's sentence; may be empty."""
    context: str
    texts: tuple[str, ...]


def read_prompt(prompt: str) -> Reading | None:
    """None for a prompt that asks for nothing that the stand-in knows."""
    wanted = [tag for tag in TAGS if f"</{tag}>" in prompt]
    fenced = _FENCE.findall(prompt)
    if len(wanted) != 1 or not fenced:
        return None
    tag, goal = wanted[0], _GOAL.search(prompt)
    if tag == "best":
        context, texts = (fenced[:-2] or [""])[0], tuple(fenced[-2:])
    elif tag in ("ranking", "steps"):
        context, texts = (
            (fenced[:-1] or [""])[0],
            tuple(part.strip() for part in re.split(r"^\[\d+\] ", fenced[-1], flags=re.MULTILINE)[1:]),
        )
    else:
        context, texts = (fenced[:-1] or [""])[0], (fenced[-1],)
    return Reading(tag, goal[1] if goal else "", context, texts)
