"""Rules between the settings of an environment agent; `checks` asks them where ``agent.env`` is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rayrl.config.schema import Config

LABELLED = ("retrieval",)
"""Intrinsic rewards that come from an annotator's labels."""


def _language_settings(config: Config) -> Iterator[str]:
    """What only a language model has, and would be ignored without a word."""
    who = f"agent.env is {config.agent.env!r}"
    if config.model.path:
        yield f"{who} and model.path is {config.model.path!r}: an agent's network is agent.network; remove one of them"
    if config.data.source:
        yield f"{who} and data.source is {config.data.source!r}: an agent has no prompts; remove one of them"
    if config.rewards.components:
        yield f"{who} and rewards.components names {', '.join(config.rewards.components)}: an agent's rewards are agent.*; remove them"
    if config.rollout.env is not None:
        yield f"{who} and rollout.env is {config.rollout.env!r}, which belongs to language models: remove it"
    if config.algorithm.kl.coef != 0:
        yield f"{who} and algorithm.kl.coef is {config.algorithm.kl.coef:g}: an agent has no reference model; set it to 0"


def _placement(config: Config) -> Iterator[str]:
    if config.placement.mode in ("colocated", "disaggregated"):
        yield f"placement.mode is {config.placement.mode} and agent.env is set: env workers run on cores; set placement.mode=cpu"
    if config.learner.ema_decay > 0:
        yield f"learner.ema_decay is {config.learner.ema_decay:g} and agent.env is set: agents keep no moving average; set it to 0"
    if config.learner.ranks > 1:
        yield f"learner.ranks is {config.learner.ranks} and agent.env is set: an agent's learner has one rank; set it to 1"


def _intrinsic(config: Config) -> Iterator[str]:
    agent, intrinsic = config.agent, config.agent.intrinsic
    if intrinsic.kind == "cosine" and not intrinsic.goal:
        yield "agent.intrinsic.kind is cosine and agent.intrinsic.goal is empty: write the goal that texts are compared with"
    if intrinsic.kind in LABELLED and config.feedback.judge == "none":
        yield f"agent.intrinsic.kind is {intrinsic.kind} and feedback.judge is none: nobody would label anything; set feedback.judge"
    if intrinsic.kind == "none" and agent.extrinsic_coef == 0:
        yield "agent.extrinsic_coef is 0 and agent.intrinsic.kind is none: there is nothing to learn from; raise one of them"
    if intrinsic.kind == "none" and agent.separate_values:
        yield "agent.separate_values is true and agent.intrinsic.kind is none: the second value head would predict 0; set it to false"


RULES: tuple[Callable[[Config], Iterator[str]], ...] = (_language_settings, _placement, _intrinsic)
