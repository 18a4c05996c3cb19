"""Rewards that know no label, or tell the opposite of it: what "Mirage or Method" (arXiv 2508.21188) holds against true ones.

`shaping.random` and `verifiers.format_regex` belong to the same family.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

NO_ANSWER = -1.0


def inverted(completion: str, ground_truth: str | None, *, verifier: str, args: Mapping[str, Any] | None = None) -> float:
    """1 minus what another verifier says: right answers are worth nothing. A completion without an answer is wrong, and so is paid."""
    from rayrl import plugins
    from rayrl.rewards.registry import VERIFIERS

    said: float = plugins.load(verifier, VERIFIERS, key="args.verifier")(completion, ground_truth, **(args or {}))
    return 1.0 - said


def confidence(completion: str, ground_truth: str | None, *, mean_logprob: float) -> float:
    """Mean log-probability per token, in nats: a policy that maximises it loses entropy (entropy minimisation, arXiv 2508.21188)."""
    return mean_logprob


def answer_number(completion: str, ground_truth: str | None, *, pattern: str) -> float:
    """A number that stands for the answer, the first group of ``pattern``: equal for equal answers. `NO_ANSWER` without one.

    Of use to the shaping ``majority`` alone (weight 1), which pays the answer that most samples of a prompt agree on. 24 bits of a hash:
    exact in float32.
    """
    found = re.search(pattern, completion)
    if found is None:
        return NO_ANSWER
    return float(int.from_bytes(hashlib.blake2b(found.group(1).encode(), digest_size=3).digest(), "big"))
