"""Rules between the settings of an environment agent; `checks` asks them where ``agent.env`` is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rayrl.config.schema import Config

LEARNED = ("classification", "ranking")
"""Intrinsic rewards of a model; its objective has the same name."""
LABELLED = ("retrieval", *LEARNED)
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
    if config.placement.mode == "colocated":
        yield (
            "placement.mode is colocated and agent.env is set: env workers run on cores and have no memory to hand over; set "
            "placement.mode=disaggregated (the learner, and agent.inference, on GPUs), or cpu"
        )
    inference = config.agent.inference
    if inference.actors > config.agent.workers:
        yield f"agent.inference.actors is {inference.actors} and agent.workers is {config.agent.workers}: some would have nobody to serve"
    if inference.gpus and not inference.actors:
        yield f"agent.inference.gpus is {inference.gpus:g} and agent.inference.actors is 0: nobody would use them; set actors=1"
    if config.learner.ema_decay > 0:
        yield f"learner.ema_decay is {config.learner.ema_decay:g} and agent.env is set: agents keep no moving average; set it to 0"
    if config.learner.backend == "deepspeed" and config.learner.zero_stage == 3:
        yield "learner.zero_stage is 3 and agent.env is set: an agent's network is small and stays whole; set it to 2 or less"
    if config.learner.backend == "deepspeed" and config.model.dtype == "bfloat16":
        yield (
            "model.dtype is bfloat16, learner.backend is deepspeed and agent.env is set: DeepSpeed would round the weights that env "
            "workers compute with; set model.dtype=float32, or learner.backend=torch"
        )


def _intrinsic(config: Config) -> Iterator[str]:
    agent, intrinsic = config.agent, config.agent.intrinsic
    if intrinsic.kind == "cosine" and not intrinsic.goal:
        yield "agent.intrinsic.kind is cosine and agent.intrinsic.goal is empty: write the goal that texts are compared with"
    if intrinsic.kind in LABELLED and config.feedback.judge == "none":
        yield f"agent.intrinsic.kind is {intrinsic.kind} and feedback.judge is none: nobody would label anything; set feedback.judge"
    if intrinsic.relabel and config.learner.epochs == 1:
        yield "agent.intrinsic.relabel is true and learner.epochs is 1: there is no further pass to rate for; set it to false"
    if intrinsic.kind == "none" and agent.extrinsic_coef == 0:
        yield "agent.extrinsic_coef is 0 and agent.intrinsic.kind is none: there is nothing to learn from; raise one of them"
    if intrinsic.kind == "none" and agent.separate_values:
        yield "agent.separate_values is true and agent.intrinsic.kind is none: the second value head would predict 0; set it to false"


def _rater(config: Config) -> Iterator[str]:
    """The model behind a learned intrinsic reward."""
    kind, name, models = config.agent.intrinsic.kind, config.agent.intrinsic.reward_model, config.reward_models
    key, known = "agent.intrinsic.reward_model", ", ".join(models) or "empty"
    for other in models.keys() - {name}:
        yield f"reward_models.{other} is used by nobody: set {key}={other}, or remove it"
    if kind not in LEARNED:
        if name is not None:
            yield f"{key} is {name} and agent.intrinsic.kind is {kind}: nothing would read it; set kind to {' or '.join(LEARNED)}"
        return
    if name not in models:
        yield f"{key} is {name!r}, which is not among reward_models ({known}): agent.intrinsic.kind {kind} needs one that rates messages"
        return
    model = models[name]
    settings = (("network", model.network, "char_cnn"), ("objective", model.objective, kind), ("min_accuracy", model.min_accuracy, 0.0))
    for setting, value, wanted in settings:
        if value != wanted:
            yield f"reward_models.{name}.{setting} is {value} and rates an agent's messages for {kind}: set it to {wanted}"
    if model.objective == "classification" and model.classes != 2:
        yield f"reward_models.{name}.classes is {model.classes}: a message is good or not; set it to 2"
    if not model.online and model.path is None:
        yield f"reward_models.{name}.online is false and its path is null: a model that never learns needs a trained checkpoint"


RULES: tuple[Callable[[Config], Iterator[str]], ...] = (_language_settings, _placement, _intrinsic, _rater)
