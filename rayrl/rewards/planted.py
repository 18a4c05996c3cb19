"""Verifiers of the task `planted`: a trace is solved once it contains the string that its prompt hides."""

from __future__ import annotations

from rayrl.data.steps import split_steps


def planted(completion: str, ground_truth: str | None) -> float:
    """The trace contains the hidden string."""
    return float(_hidden(ground_truth) in completion)


def planted_return(completion: str, ground_truth: str | None, *, horizon: int) -> float:
    """``H - h* + 1``, h* the character after which the trace is solved, 0 where it never is (arXiv 2502.12118): earlier is better."""
    truth = _hidden(ground_truth)
    at = completion[:horizon].find(truth)
    return 0.0 if at < 0 else float(horizon - (at + len(truth)) + 1)


def planted_steps(completion: str, ground_truth: str | None, *, separator: str = ",") -> list[float]:
    """For each attempt the share of its digits that are right: a process reward whose sum grows with every attempt."""
    truth, attempts = _hidden(ground_truth), [completion[start:end] for start, end in split_steps(completion, separator)]
    return [sum(a == b for a, b in zip(attempt, truth, strict=False)) / len(truth) for attempt in attempts]


def _hidden(ground_truth: str | None) -> str:
    if not ground_truth:
        raise ValueError("this verifier needs the hidden string, and the prompt has no ground truth")
    return ground_truth
