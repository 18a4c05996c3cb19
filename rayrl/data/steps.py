"""Steps of a written solution: the pieces of a text between separators. One definition for verifiers and learner."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


def split_steps(text: str, separator: str) -> list[tuple[int, int]]:
    """``[start, end)`` in ``text`` of every piece that is not only white space, its separator included.

    A separator at the very end ends the last step. Raises `ValueError` for an empty separator.
    """
    spans, start = [], 0
    for piece in text.split(separator):
        end = min(start + len(piece) + len(separator), len(text))
        if piece.strip():
            spans.append((start, end))
        start = end
    return spans


def step_ends(token_texts: Sequence[str], separator: str) -> list[int]:
    """For each step of the concatenated ``token_texts`` the index of the token that holds its last character.

    The last step ends at the last token, so that an end-of-sequence token belongs to it.
    """
    lengths = list(accumulate(map(len, token_texts)))
    ends = [bisect_left(lengths, end) for _, end in split_steps("".join(token_texts), separator)]
    if ends:
        ends[-1] = len(token_texts) - 1
    return ends
