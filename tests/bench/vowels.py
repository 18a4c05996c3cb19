"""A reward that costs next to nothing and varies within a group: the same for both sides of bench_end_to_end.py."""

from __future__ import annotations


def share_of_vowels(completion: str, ground_truth: str | None = None) -> float:
    return sum(map(completion.count, "aeiou")) / max(len(completion), 1)
