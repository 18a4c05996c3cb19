"""Rewards that look at the length of a completion, or at nothing at all; they never need a ground truth."""

from __future__ import annotations

import hashlib


def length(
    completion: str, ground_truth: str | None, *, num_tokens: int, target: int, penalty: float = 1.0, only_longer: bool = False
) -> float:
    """``-penalty · |num_tokens - target| / target``; ``only_longer`` leaves shorter completions alone.

    The length term of LCPO-Exact (Aggarwal and Welleck 2025, L1, eq. 1) with alpha = penalty / target.
    """
    excess = num_tokens - target
    return -penalty * (max(excess, 0) if only_longer else abs(excess)) / target


def overlong(
    completion: str, ground_truth: str | None, *, num_tokens: int, max_tokens: int, buffer_tokens: int, penalty: float = 1.0
) -> float:
    """Soft overlong punishment (Yu et al. 2025, DAPO, eq. 13): 0 up to ``max_tokens - buffer_tokens``, then linearly down to
    ``-penalty`` at ``max_tokens`` and beyond."""
    excess = num_tokens - (max_tokens - buffer_tokens)
    return -penalty * min(max(excess / buffer_tokens, 0.0), 1.0)


def random(completion: str, ground_truth: str | None, *, trajectory_id: str, p: float = 0.5, seed: int = 0) -> float:
    """1.0 with probability ``p`` and else 0.0, drawn from (seed, trajectory id) alone.

    The control of an experiment: a reward with the variance ``p (1 - p)`` of a real one that knows nothing of the completion.
    """
    digest = hashlib.blake2b(f"{seed}/{trajectory_id}".encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") < p * 2**64)
