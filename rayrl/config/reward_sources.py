"""Where each reward component's scores come from, and which scoring jobs of the buffer that makes. Pure.

A component has one source: a verifier, the judge of ``feedback``, or a reward model. All verifier components are one job, all judged
ones another, and each reward model is a job of its own: a group is ready when every job has answered. An environment agent has no
components; a reward model may rate its messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from rayrl.config.schema import Config, RewardComponent

VERIFIERS, JUDGES = "verifiers", "judges"
MODEL_PREFIX = "reward_model-"
"""In front of a reward model's name: its job, its role, its log."""


def sources(component: RewardComponent) -> dict[str, str]:
    """The sources that are set; exactly one in a configuration that passed its checks."""
    found = {"verifier": component.verifier, "judge": component.judge, "reward_model": component.reward_model}
    return {kind: name for kind, name in found.items() if name is not None}


def jobs(config: Config) -> dict[str, dict[str, RewardComponent]]:
    """Components by scoring job, in a fixed order; jobs without components are left out."""
    components = config.rewards.components
    result = {
        VERIFIERS: {name: c for name, c in components.items() if c.verifier is not None},
        JUDGES: {name: c for name, c in components.items() if c.judge is not None},
    }
    for name, component in components.items():
        if component.reward_model is not None:
            result.setdefault(MODEL_PREFIX + component.reward_model, {})[name] = component
    return {job: found for job, found in result.items() if found}


def rater(config: Config) -> str | None:
    """The role that rates an agent's messages, named like a reward model's job. It is no job of the buffer: fragments bring rewards."""
    model = config.agent.intrinsic.reward_model
    return MODEL_PREFIX + model if config.agent.env is not None and model is not None else None


def roles(config: Config) -> list[str]:
    """Names of all jobs that are roles of their own, verifiers left out."""
    rating = rater(config)
    return [*(job for job in jobs(config) if job != VERIFIERS), *([rating] if rating else [])]


def main_component(config: Config) -> str:
    """The component that counts as correct."""
    return config.evaluation.component or next(iter(config.rewards.components))


def problems(config: Config) -> Iterator[str]:
    """Sources that are missing, doubled or lead nowhere."""
    asked = False
    for name, component in config.rewards.components.items():
        key, found = f"rewards.components.{name}", sources(component)
        if len(found) != 1:
            named = " and ".join(f"{kind} {value}" for kind, value in found.items()) or "none"
            yield f"{key} needs exactly one source and has {named}: set one of verifier, judge, reward_model"
            continue
        model = component.reward_model
        if model is not None and model not in config.reward_models:
            known = ", ".join(config.reward_models) or "empty"
            yield f"{key}.reward_model is {model!r}, which is not among reward_models ({known})"
        if component.args and component.verifier is None:
            yield f"{key}.args is set and only a verifier takes arguments: remove it"
        yield from _head_problems(config, name)
        asked |= component.judge is not None or (model in config.reward_models and config.reward_models[model].online)
    used = {c.reward_model for c in config.rewards.components.values()}
    for model in config.reward_models:
        if model not in used:
            yield f"reward_models.{model} is used by no component: set rewards.components.NAME.reward_model={model}, or remove it"
    yield from _model_problems(config)
    if asked and config.feedback.judge == "none":
        yield "feedback.judge is none and rewards.components ask a judge or learn from one: set feedback.judge=http and feedback.base_url"
    waits = asked or bool(config.reward_models)
    if waits and config.rewards.deadline_s >= min(config.deadlines.score_s, config.buffer.lease_s):
        yield (
            f"rewards.deadline_s {config.rewards.deadline_s:g} must be below deadlines.score_s {config.deadlines.score_s:g} and "
            f"buffer.lease_s {config.buffer.lease_s:g}, which would end the run or the lease first"
        )
    if config.rewards.on_failure == "rescore" and config.buffer.max_staleness == 0:
        yield "rewards.on_failure is rescore and buffer.max_staleness is 0: no score can come later; raise it, or use drop or fallback"
    if config.rewards.on_failure == "rescore" and not any(c.judge for c in config.rewards.components.values()):
        yield "rewards.on_failure is rescore and no component asks a judge: nothing answers late; use drop or fallback"


def _head_problems(config: Config, name: str) -> Iterator[str]:
    """A component that names a head which its source does not have."""
    component, key = config.rewards.components[name], f"rewards.components.{name}"
    model = config.reward_models.get(component.reward_model or "")
    if model is None:
        if component.head is not None or component.deviation:
            yield f"{key} names a head or a deviation and only a reward model has those: set {key}.reward_model, or remove them"
        return
    known, kind = (model.passes, "passes") if model.passes else (model.heads, "heads")
    if component.head is not None and component.head >= known:
        yield f"{key}.head is {component.head} and reward_models.{component.reward_model} has {kind} 0 to {known - 1}: raise {kind}"
    if component.deviation and (component.head is None or model.passes or model.objective != "gaussian"):
        yield f"{key}.deviation needs {key}.head, and reward_models.{component.reward_model} with objective gaussian and passes 0"


def _model_problems(config: Config) -> Iterator[str]:
    """Settings of single reward models that contradict each other."""
    for name, model in config.reward_models.items():
        key = f"reward_models.{name}"
        if model.passes and not model.dropout:
            yield f"{key}.passes is {model.passes} and {key}.dropout is 0: all passes would be equal; set dropout, e.g. 0.1"
        if model.passes and model.heads > 1:
            yield f"{key} has {model.heads} heads and {model.passes} passes: components name one or the other; set heads=1 or passes=0"
        if not model.online and model.path is None:
            yield f"{key}.online is false and {key}.path is null: a model that never learns needs a trained checkpoint (`rayrl train-rm`)"
        if model.network == "transformer" and model.max_length < config.model.max_length:
            yield f"{key}.max_length {model.max_length} is less than model.max_length {config.model.max_length}: raise it"
        if model.ties != "half" and model.objective != "ranking":
            yield f"{key}.ties is {model.ties} and {key}.objective is {model.objective}: only a ranking has ties; set {key}.ties=half"
        if model.min_accuracy and (model.objective != "ranking" or not model.online or not model.validation_share):
            yield (
                f"{key}.min_accuracy is {model.min_accuracy:g} and nothing measures it: it needs objective=ranking, online=true and "
                "validation_share above 0; or set it to 0"
            )
        if model.listwise and (model.objective not in ("ranking", "plackett_luce") or model.questions_per_group < 2):
            yield (
                f"{key}.listwise needs {key}.objective ranking or plackett_luce, and {key}.questions_per_group of 2 or more: a list has "
                "two samples"
            )
        if model.online and model.objective == "plackett_luce" and not model.listwise:
            yield f"{key}.objective plackett_luce learns from ranked lists: set {key}.listwise=true, or take objective ranking for pairs"
        if model.huber and model.objective != "regression":
            yield f"{key}.huber is {model.huber:g} and {key}.objective is {model.objective}: only a regression has it; set {key}.huber=0"
        most = config.batch.groups_per_step * model.questions_per_group
        if model.online and not model.listwise and model.min_labels > most:
            yield (
                f"{key}.min_labels {model.min_labels} is more than the first {config.batch.groups_per_step} groups ask for with "
                f"{model.questions_per_group} questions each, and nothing is scored before: lower it to less than {most}"
            )
