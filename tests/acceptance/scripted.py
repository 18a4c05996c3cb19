"""Scripted rewards of the trials: heads of a reward model that are wrong where a page wants them wrong, and passes of an estimator."""

from __future__ import annotations

import hashlib

from rayrl.rewards.planted import planted

TRUE_VALUE = {"A": 0.0, "B": 0.2, "C": 0.4, "D": 0.6, "E": 0.1}
"""Five answers of one token and what each is worth (page 08)."""
OVERRATED, BY, BOASTER = "E", 0.8, 2
"""The answer that one head over-rates, by how much, and which head that is; it claims to be the surest."""


def true_value(completion: str, ground_truth: str | None) -> float:
    return TRUE_VALUE.get(completion[:1], 0.0)


def head(completion: str, ground_truth: str | None, *, index: int) -> float:
    """What a head says of an answer: its true value, a little off, always in the same way."""
    answer = completion[:1]
    wrong = BY if index == BOASTER and answer == OVERRATED else 0.0
    return true_value(completion, None) + 0.05 * (2 * _uniform(f"head/{index}/{answer}") - 1) + wrong


def deviation(completion: str, ground_truth: str | None, *, index: int) -> float:
    """What a head claims its error to be."""
    return 0.01 if index == BOASTER else 0.05 + 0.01 * index


def flipped(completion: str, ground_truth: str | None, *, prompt: str, trajectory_id: str, share: float = 0.3) -> float:
    """A reward model that is right, but for half of all prompts (the family 5 … 9) turns a ``share`` of its scores round (page 39)."""
    right = planted(completion, ground_truth)
    noisy = prompt[:1] >= "5" and _uniform(f"flip/{trajectory_id}") < share
    return 1.0 - right if noisy else right


def estimate(completion: str, ground_truth: str | None, *, trajectory_id: str, index: int, noise: float = 0.6) -> float:
    """One pass of an estimator that was fitted to clean data: the truth and a noise of its own, in logits of a preference."""
    return planted(completion, ground_truth) + noise * (2 * _uniform(f"pass/{index}/{trajectory_id}") - 1)


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big") / 2**56
