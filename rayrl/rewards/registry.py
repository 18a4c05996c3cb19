"""Which verifiers exist, what they may ask of a trajectory, and how a configured component becomes a callable.

A verifier is a plain function ``f(completion, ground_truth, **kwargs) -> float``, or ``-> list[float]`` when it scores every step
(the component's own value is then their sum). Keyword parameters are filled from the
component's ``args``; a parameter that bears the name of an extra (`EXTRAS`) and is not among the ``args`` is filled from the
trajectory. This module imports no verifier: names lead to `module:function`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rayrl import plugins
from rayrl.errors import ConfigError

if TYPE_CHECKING:
    from rayrl.types import Trajectory

VERIFIERS: dict[str, str] = {
    "arithmetic": "rayrl.rewards.verifiers:arithmetic",
    "answer_number": "rayrl.rewards.label_free:answer_number",
    "arithmetic_steps": "rayrl.rewards.verifiers:arithmetic_steps",
    "confidence": "rayrl.rewards.label_free:confidence",
    "exact_match": "rayrl.rewards.verifiers:exact_match",
    "flattered": "rayrl.rewards.verifiers:flattered",
    "format_regex": "rayrl.rewards.verifiers:format_regex",
    "inverted": "rayrl.rewards.label_free:inverted",
    "length": "rayrl.rewards.shaping:length",
    "listed": "rayrl.rewards.verifiers:listed",
    "math": "rayrl.rewards.math_equivalence:math",
    "multiple_choice": "rayrl.rewards.verifiers:multiple_choice",
    "numeric": "rayrl.rewards.verifiers:numeric",
    "overlong": "rayrl.rewards.shaping:overlong",
    "planted": "rayrl.rewards.planted:planted",
    "planted_return": "rayrl.rewards.planted:planted_return",
    "planted_steps": "rayrl.rewards.planted:planted_steps",
    "python_tests": "rayrl.rewards.code:python_tests",
    "random": "rayrl.rewards.shaping:random",
    "sql": "rayrl.rewards.code:sql",
    "true_equations": "rayrl.rewards.verifiers:true_equations",
}

SANDBOXED = frozenset({"python_tests", "sql"})
"""Verifiers that run what the completion wrote."""

EXTRAS: dict[str, Callable[[Trajectory], Any]] = {
    "num_tokens": lambda t: t.num_action_tokens,
    "mean_logprob": lambda t: float(t.behavior_logprobs[t.action_mask].mean()) if t.num_action_tokens else 0.0,
    "prompt": lambda t: t.prompt_text,
    "metadata": lambda t: dict(t.metadata),
    "finish_reason": lambda t: str(t.finish_reason),
    "task": lambda t: t.task,
    "trajectory_id": lambda t: t.id,
}
"""What a verifier may ask of a trajectory beside completion and ground truth. ``num_tokens`` counts the policy's tokens,
``mean_logprob`` is the mean log-probability that it gave them."""

_FORM = "A verifier is def f(completion, ground_truth, **kwargs) -> float."


def scores_steps(component: str, verifier: str) -> bool | None:
    """Whether a verifier says by its annotation that it returns a list, one number per step; None where it has no annotation.

    Raises `ConfigError` for an unknown verifier.
    """
    function = plugins.load(verifier, VERIFIERS, key=f"rewards.components.{component}.verifier")
    returns = str(getattr(function, "__annotations__", {}).get("return", ""))
    return None if not returns else any(word in returns.lower() for word in ("list", "sequence", "tuple"))


def bind(component: str, verifier: str, args: Mapping[str, Any]) -> tuple[Callable[..., float], tuple[str, ...]]:
    """Imports the verifier of one component; returns it with ``args`` filled in, and the extras that it asks for.

    Raises `ConfigError` for an unknown verifier, an argument that it does not take, or one that it needs and does not get.
    """
    key = f"rewards.components.{component}"
    function = plugins.load(verifier, VERIFIERS, key=f"{key}.verifier")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigError(f"{key}.verifier: {verifier!r} is not a plain function", _FORM)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as e:
        raise ConfigError(f"{key}.verifier: {verifier!r} has no readable signature", "Wrap it in a Python function.") from e
    variadic = {p.kind for p in parameters}
    takes = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(takes) < 2 and inspect.Parameter.VAR_POSITIONAL not in variadic:
        raise ConfigError(f"{key}.verifier: {verifier!r} takes fewer than two positional parameters", _FORM)
    keywords = {p.name: p for p in [*takes[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]}
    unknown = [] if inspect.Parameter.VAR_KEYWORD in variadic else [a for a in args if a not in keywords]
    if unknown:
        settable = [k for k in keywords if k not in EXTRAS]
        raise ConfigError(
            f"{key}.args.{unknown[0]}: {verifier!r} takes no such argument",
            f"{plugins.nearest(unknown[0], settable)}it takes {', '.join(settable) or 'none'}.",
        )
    extras = tuple(name for name in keywords if name in EXTRAS and name not in args)
    missing = [n for n, p in keywords.items() if p.default is p.empty and n not in args and n not in extras]
    if missing:
        raise ConfigError(f"{key}.args.{missing[0]}: {verifier!r} needs it and it is not set", f"Set {key}.args.{missing[0]}.")
    return functools.partial(function, **args), extras
