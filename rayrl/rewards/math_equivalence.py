"""Mathematical equivalence with `math-verify`: LaTeX or plain expressions, fractions, sets, intervals, units.

Its own module, because it imports sympy: only processes that use it pay for it, and they pay while they start.
"""

from __future__ import annotations

import logging

from math_verify import parse
from math_verify import verify as equivalent

# the pool limits every call; math-verify warns once per process that its own limits (SIGALRM) are off
logging.getLogger("math_verify").setLevel(logging.ERROR)


def math(completion: str, ground_truth: str | None) -> float:
    """1.0 when the last answer of the completion (``\\boxed{}`` first) is mathematically equal to the ground truth.

    A ground truth without ``$`` or ``\\boxed`` is read as LaTeX. Raises `ValueError` when it cannot be parsed.
    """
    if ground_truth is None:
        raise ValueError("this verifier needs a ground truth and the prompt has none (data.answer_field)")
    is_marked = "$" in ground_truth or "\\boxed" in ground_truth
    truth = parse(ground_truth if is_marked else f"\\boxed{{{ground_truth}}}", parsing_timeout=None)
    if not truth:
        raise ValueError(f"ground truth {ground_truth!r} cannot be read as mathematics")
    answer = parse(completion, parsing_timeout=None)
    return float(bool(answer) and equivalent(truth, answer, timeout_seconds=None))
