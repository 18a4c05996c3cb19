"""What is wrong with the feedback of a configuration, asked before anything starts. Opens no connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rayrl.annotations import QuestionKind
from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.feedback import templates


def problems(config: Config) -> list[str]:
    """One line each: template, goal, key, recorded answers. Empty without a judge."""
    return list(_problems(config)) if config.feedback.judge != "none" else []


def require(config: Config) -> None:
    """Raises one `ConfigError` with every problem."""
    found = problems(config)
    if found:
        raise ConfigError("\n".join(found), "`rayrl plan` shows them before anything starts")


def _problems(config: Config) -> Iterator[str]:
    feedback, twice = config.feedback, False
    try:
        template = templates.load(feedback.template)
        twice = template.kind is QuestionKind.PAIR and feedback.pairs.swap
        template.goal_sentence(feedback.goal)
    except ConfigError as e:
        yield f"{e.message} ({e.hint})"
    if feedback.budget.tokens is not None and feedback.budget.tokens < feedback.sampling.max_tokens * (1 + twice):
        yield (
            f"feedback.budget.tokens {feedback.budget.tokens} does not hold one answer of feedback.sampling.max_tokens "
            f"{feedback.sampling.max_tokens}: no question would ever be asked; raise it"
        )
    if feedback.judge == "http" and feedback.api_key_env is not None and not os.environ.get(feedback.api_key_env):
        yield f"feedback.api_key_env names {feedback.api_key_env}, which is not set in this environment: export it, or set null"
    if feedback.judge == "replay" and feedback.replay is not None and not Path(feedback.replay).is_file():
        yield f"feedback.replay: there is no file {feedback.replay}"
