"""Rules between settings: combinations that are well typed and cannot run, or would quietly do something else than they say.

Each rule yields one line that names the keys, their values and the remedy. `require_consistent` reports all of them at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from rayrl.algorithms import registry
from rayrl.config import agent_checks, reward_sources
from rayrl.config.choices import CHOICES, RANGES
from rayrl.config.placement import needs_reference, rollout_actors
from rayrl.config.schema import Config
from rayrl.config.sizes import longest_sequence
from rayrl.errors import ConfigError


def require_consistent(config: Config) -> None:
    """Raises one `ConfigError` with every problem of ``config``."""
    found = problems(config)
    if found:
        raise ConfigError(
            "\n".join(found), "change these settings in the recipe or on the command line; `rayrl plan --explain KEY` explains one"
        )


def problems(config: Config) -> list[str]:
    """Every problem of ``config``, one line each. Rules between settings are only asked when each setting by itself is possible."""
    single = [*_choices(config), *_ranges(config)]
    rules = (*_RULES, *(_LANGUAGE_RULES if config.agent.env is None else agent_checks.RULES))
    return single or [line for rule in rules for line in rule(config)]


def _choices(config: Config) -> Iterator[str]:
    for key, value, allowed in ((k, v, allowed) for pattern, allowed in CHOICES.items() for k, v in values_of(config, pattern)):
        if value is not None and value not in allowed:
            close = difflib.get_close_matches(str(value), allowed, n=1)
            yield f"{key} is {value!r}" + (f"; did you mean {close[0]!r}?" if close else "") + f" One of: {', '.join(allowed)}"


def _ranges(config: Config) -> Iterator[str]:
    for key, value, allowed in ((k, v, allowed) for pattern, allowed in RANGES.items() for k, v in values_of(config, pattern)):
        if value is not None and value not in allowed:
            yield f"{key} is {value}; it must be {allowed}"


def values_of(config: Any, key: str) -> list[tuple[str, Any]]:
    """The value at a dotted key; where ``*`` stands for names of the user's choice, the values of all of them, each with its own key."""
    found: list[tuple[str, Any]] = [("", config)]
    for part in key.split("."):
        if part == "*":
            found = [(f"{place}.{name}", entry) for place, section in found for name, entry in section.items()]
        else:
            found = [(f"{place}.{part}" if place else part, getattr(section, part)) for place, section in found]
    return found


def _batch(config: Config) -> Iterator[str]:
    groups, ranks, minibatches = config.batch.groups_per_step, config.learner.ranks, config.learner.minibatches
    if groups % (ranks * minibatches):
        yield (
            f"batch.groups_per_step {groups} does not divide into learner.ranks {ranks} × learner.minibatches {minibatches}: "
            f"make it a multiple of {ranks * minibatches}"
        )
    outstanding = groups * (config.buffer.max_staleness + 1)
    if config.buffer.max_groups < outstanding:
        yield f"buffer.max_groups {config.buffer.max_groups} is less than the {outstanding} groups of (max_staleness + 1) × groups_per_step"
    updates = config.run.steps * config.learner.epochs * minibatches
    warmup, schedule = config.learner.optim.warmup_steps, config.learner.optim.schedule
    if schedule != "constant" and warmup >= updates:
        yield f"learner.optim.warmup_steps {warmup} leaves nothing of the run's {updates} updates for the {schedule} schedule"


def _lengths(config: Config) -> Iterator[str]:
    prompt, completion, context = config.data.max_prompt_length, config.rollout.sampling.max_tokens, config.model.max_length
    if prompt + completion > context:
        yield (
            f"data.max_prompt_length {prompt} + rollout.sampling.max_tokens {completion} exceed model.max_length {context}: "
            f"raise it to {prompt + completion}, or lower one of them"
        )
    readers = [("learner.token_budget", config.learner.token_budget)]
    if needs_reference(config):
        readers.append(("reference.token_budget", config.reference.token_budget))
    for key, budget in readers:
        if budget < longest_sequence(config):
            yield f"{key} {budget} does not hold one sequence of {longest_sequence(config)} tokens: raise it"


def _algorithm(config: Config) -> Iterator[str]:
    try:
        resolved = registry.resolve(config.algorithm)
    except ConfigError as e:
        yield f"{e.message} ({e.hint})"
        return
    size = config.batch.group_size
    if size < resolved.min_group_size:
        who = next(f"algorithm.{p} {getattr(resolved, p)}" for p, e in resolved.entries.items() if e.min_group == resolved.min_group_size)
        yield f"batch.group_size is {size} and {who} compares samples of one prompt: raise it to {resolved.min_group_size} or more"
    if resolved.needs_critic and config.learner.critic is False:
        yield f"learner.critic is false and algorithm.advantage {resolved.advantage} needs values: leave it null"
    if config.learner.critic and not resolved.needs_critic:
        yield f"learner.critic is true and algorithm.advantage {resolved.advantage} reads no values: leave it null"
    if config.reference.path is not None and not needs_reference(config):
        yield "reference.path is set and algorithm.kl.coef is 0, which starts no reference model: raise the coefficient, or remove the path"
    yield from _needs(config, resolved)


def _needs(config: Config, resolved: registry.Resolved) -> Iterator[str]:
    """What the tables say that a method needs (`entries.Entry`), against what this configuration offers."""
    weighted = [name for name, component in config.rewards.components.items() if component.weight != 0]
    for part, entry in resolved.entries.items():
        who = f"algorithm.{part} {getattr(resolved, part)}"
        if len(weighted) < entry.min_components:
            yield f"{who} needs {entry.min_components} weighted reward components and rewards.components has {len(weighted)}: add some"
        if entry.steps and resolved.steps == "none":
            known = ", ".join(name for name in registry.STEPS if name != "none")
            yield f"{who} reads one reward per step and algorithm.steps is none: set it to {known}"
        if entry.groups:
            most = longest_sequence(config) * config.batch.group_size
            if config.learner.token_budget < most:
                yield f"{who} needs whole groups in a micro-batch: raise learner.token_budget {config.learner.token_budget} to {most}"
            if config.algorithm.correction.mode not in ("auto", "none"):
                yield f"{who} compares samples and takes no importance weights: set algorithm.correction.mode to none"
        if entry.binary and len(weighted) > 1:
            yield f"{who} needs rewards of 0 or 1 and {len(weighted)} components are weighted: leave one with weight 1, the others with 0"
    risk = resolved.knobs["advantage"]
    if "quantile_lr" in risk and float(risk["alpha"]) >= float(risk["beta"]):
        yield f"algorithm.args.alpha is {risk['alpha']} and algorithm.args.beta is {risk['beta']}: alpha is the lower quantile"
    bundle = int(risk.get("bundle", 1))
    if bundle > config.batch.groups_per_step:
        yield f"algorithm.args.bundle {bundle} is more questions than batch.groups_per_step {config.batch.groups_per_step}: lower it"
    yield from _opponents(config, float(resolved.knobs["loss"].get("others", -1)))
    component = resolved.knobs["steps"].get("component")
    if component is not None:
        if component not in config.rewards.components:
            names = ", ".join(config.rewards.components)
            yield f"algorithm.args.component is {component!r}, which is not among rewards.components: {names}"
        elif config.rewards.components[str(component)].weight != 0:
            who = f"rewards.components.{component}.weight"
            yield f"{who} would pay the steps a second time beside algorithm.steps {resolved.steps}: set it to 0"


def _opponents(config: Config, share: float) -> Iterator[str]:
    """``share`` of `reference.opponents` among the opponents of the loss; negative where the loss reads none."""
    opponents = config.reference.opponents
    if share > 0 and not opponents:
        yield f"algorithm.args.others is {share:g} and reference.opponents names none: set reference.opponents.NAME.path"
    if opponents and share == 0:
        yield "reference.opponents names policies and algorithm.args.others is 0, which ignores them: raise it, or remove them"
    if opponents and share < 0:
        yield "reference.opponents names policies and algorithm.loss compares with none: take algorithm.loss=mnpo, or remove them"
    for name, opponent in opponents.items():
        if not opponent.path:
            yield f"reference.opponents.{name}.path is empty: name a checkpoint"


def _sampling(config: Config) -> Iterator[str]:
    if config.data.completions_field is not None and config.rollout.env is not None:
        yield "data.completions_field gives whole answers and rollout.env is set, which answers turn by turn: remove one of them"
    if config.rollout.sampling.temperature == 0:
        yield "rollout.sampling.temperature is 0: all samples of a group would be equal and teach nothing; set it to 1"
    if config.rollout.env is not None and config.rollout.max_turns == 1:
        yield f"rollout.env is {config.rollout.env!r} and rollout.max_turns is 1, so that it would never answer: raise rollout.max_turns"
    if config.rollout.env is None and config.rollout.max_turns > 1:
        yield f"rollout.max_turns is {config.rollout.max_turns} and rollout.env is null: nobody answers the first turn; set rollout.env"
    if config.rollout.env is not None and config.rollout.length_limits is not None:
        yield "rollout.length_limits forces the lengths of single turns and rollout.env is set: remove one of them"


def _rewards(config: Config) -> Iterator[str]:
    components = config.rewards.components
    if not components:
        yield "rewards.components is empty: without a reward nothing is learned; name at least one verifier"
        return
    try:
        entry, _ = registry.aggregator(config.rewards)
        weighted = sum(component.weight != 0 for component in components.values())
        if weighted < entry.min_components:
            who = f"rewards.aggregate {config.rewards.aggregate}"
            yield f"{who} combines at least {entry.min_components} weighted components and has {weighted}: add some, or take weighted_sum"
    except ConfigError as e:
        yield f"{e.message} ({e.hint})"
    for name, component in components.items():
        if not math.isfinite(component.weight):
            yield f"rewards.components.{name}.weight is {component.weight}: it must be finite"
    if all(component.weight == 0 for component in components.values()):
        yield "every weight in rewards.components is 0: all rewards would be 0; weight at least one"
    yield from reward_sources.problems(config)
    wanted = config.evaluation.component
    if wanted is not None and wanted not in components:
        yield f"evaluation.component is {wanted!r}, which is not among rewards.components: {', '.join(components)}"
    returns = config.evaluation.returns
    if returns is not None and returns not in components:
        yield f"evaluation.returns is {returns!r}, which is not among rewards.components: {', '.join(components)}"
    if returns is not None and config.evaluation.samples < 2:
        yield "evaluation.returns asks for the spread among samples of a prompt and evaluation.samples is 1: raise it, 16 is good"


def _feedback(config: Config) -> Iterator[str]:
    feedback, budget = config.feedback, config.feedback.budget
    if feedback.judge == "none":
        return
    for key in ("tokens", "usd"):
        if getattr(budget, key) == 0:
            yield f"feedback.budget.{key} is 0, so no question would ever be asked: raise it, or set feedback.judge=none"
    if budget.usd is not None and not (budget.usd_per_million_input or budget.usd_per_million_output):
        yield f"feedback.budget.usd is {budget.usd:g} and both prices are 0: set feedback.budget.usd_per_million_input and _output"
    if feedback.judge == "replay" and feedback.replay is None:
        yield "feedback.judge is replay and feedback.replay is null: name the feedback.sqlite of an earlier run"
    if feedback.judge != "replay" and feedback.replay is not None:
        yield f"feedback.replay is set and feedback.judge is {feedback.judge}: set feedback.judge=replay, or remove the path"
    if feedback.judge == "http" and not re.match(r"https?://[^/\s]+", feedback.base_url):
        yield f"feedback.base_url {feedback.base_url!r} is not an address: write it like http://127.0.0.1:8000/v1"
    if feedback.max_known < feedback.max_queued:
        yield f"feedback.max_known {feedback.max_known} is less than feedback.max_queued {feedback.max_queued}: raise it"
    if feedback.flush_s > 0.5:
        yield f"feedback.flush_s is {feedback.flush_s:g}: a lone question would wait for nothing; set it to 0.5 or less"


def _data(config: Config) -> Iterator[str]:
    pattern = config.data.answer_pattern
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as e:
        yield f"data.answer_pattern {pattern!r} is not a regular expression: {e}"
        return
    if groups < 1:
        yield f"data.answer_pattern {pattern!r} has no group: put parentheses around the part that is the answer"
    if config.data.answer_field is None:
        yield "data.answer_pattern is set and data.answer_field is null: name the field that it cuts from"


def _learner(config: Config) -> Iterator[str]:
    learner = config.learner
    if learner.backend == "torch" and learner.ranks > 1:
        yield f"learner.backend torch has one rank and learner.ranks is {learner.ranks}: set learner.backend=deepspeed, or learner.ranks=1"
    if learner.backend == "torch" and learner.zero_stage:
        yield f"learner.zero_stage is {learner.zero_stage} and learner.backend is torch: ZeRO belongs to deepspeed"
    if learner.offload and (learner.backend != "deepspeed" or learner.zero_stage < 2):
        yield "learner.offload needs learner.backend=deepspeed and learner.zero_stage 2 or 3"
    if len(config.learner.optim.betas) != 2 or not all(0 <= b < 1 for b in config.learner.optim.betas):
        yield f"learner.optim.betas is {config.learner.optim.betas}: two numbers of at least 0 and below 1"


def _schedule(config: Config) -> Iterator[str]:
    staleness, placement = config.buffer.max_staleness, config.placement
    if config.run.deterministic and staleness > 0:
        yield f"run.deterministic is true and buffer.max_staleness is {staleness}: a token's weights depend on timing; set it to 0"
    if config.run.deterministic and placement.mode in ("disaggregated", "colocated"):
        yield f"run.deterministic is true and placement.mode is {placement.mode}: bit-reproducible runs are on CPU; set placement.mode=cpu"
    if placement.mode == "colocated" and staleness > 0:
        yield f"placement.mode is colocated and buffer.max_staleness is {staleness}: engines sleep while the learner works; set it to 0"
    if placement.max_rollout and config.run.deterministic:
        yield "placement.max_rollout lets rollout workers come and go and run.deterministic is true: set it to 0"
    if 0 < placement.max_rollout < rollout_actors(config):
        yield f"placement.max_rollout {placement.max_rollout} is below the {rollout_actors(config)} that the run begins with: raise it"
    if placement.max_rollout and placement.mode == "colocated":
        yield "placement.max_rollout is set and placement.mode is colocated, where engines live on the learner's GPUs: set it to 0"
    if placement.runtime == "in_process":
        yield from _in_process(config)
    strange = [role for role in placement.node_groups if role not in ("rollout", "learner", "reference", "judge")]
    if strange:
        yield f"placement.node_groups names {strange[0]!r}: roles that reserve a place are rollout, learner, reference and judge"
    if placement.node_groups and placement.mode == "colocated":
        yield "placement.node_groups separates roles and placement.mode is colocated, which puts them together: remove one of them"
    if placement.mode == "colocated" and config.rollout.tensor_parallel > 1:
        yield f"placement.mode is colocated and rollout.tensor_parallel is {config.rollout.tensor_parallel}: an engine has one shared GPU"
    if placement.mode == "cpu" and config.rollout.tensor_parallel > 1:
        yield f"placement.mode is cpu and rollout.tensor_parallel is {config.rollout.tensor_parallel}: it counts GPUs; set it to 1"


def _in_process(config: Config) -> Iterator[str]:
    """What one process cannot be."""
    placement, many = config.placement, "placement.runtime is in_process and "
    if placement.mode not in ("auto", "cpu"):
        yield f"{many}placement.mode is {placement.mode}: GPUs are shared out among processes; set placement.mode=cpu"
    if placement.nodes > 1 or placement.max_rollout:
        yield f"{many}the run wants several nodes or workers that come and go: set placement.runtime=ray"
    if config.learner.ranks > 1:
        yield f"{many}learner.ranks is {config.learner.ranks}: ranks meet as processes; set learner.ranks=1"


def _transport(config: Config) -> Iterator[str]:
    transport, mode = config.sync.transport, config.placement.mode
    if transport in ("auto", "store"):
        return
    wanted = "colocated" if transport == "ipc" else "disaggregated"
    if mode not in ("auto", wanted):
        yield f"sync.transport is {transport} and placement.mode is {mode}: it needs {wanted}; set sync.transport=auto"
    if config.rollout.engine not in ("auto", "vllm"):
        yield f"sync.transport is {transport} and rollout.engine is {config.rollout.engine}: it belongs to vllm; set sync.transport=auto"
    if not config.sync.canary:
        yield f"sync.transport is {transport} and sync.canary is false: bytes that stay on GPUs have no other proof; set sync.canary=true"


_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (_batch, _learner, _schedule, _feedback)
_LANGUAGE_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (_lengths, _algorithm, _sampling, _rewards, _data, _transport)
