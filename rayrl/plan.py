"""`rayrl plan`: what a configuration will do before anything starts: who runs where, how big a step is, what cannot work.

Needs neither ray nor torch nor a GPU, so that a run for a cluster can be planned on a laptop. Placement and arithmetic are
those that the driver uses (`config.placement`, `config.sizes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rayrl.algorithms.registry import resolve
from rayrl.check import installed, usable_engine
from rayrl.config import reward_sources
from rayrl.config.checks import problems as inconsistencies
from rayrl.config.loading import Loaded
from rayrl.config.placement import Resources, RoleResources, bundles, placement_mode, role_resources, run_resources
from rayrl.config.schema import Config
from rayrl.config.sizes import ModelSize, longest_sequence, model_size, role_memory
from rayrl.data.sources import TASK_PREFIX, load_rows
from rayrl.envs.registry import load_agent_env, load_env
from rayrl.errors import ConfigError, RayrlError
from rayrl.feedback.preflight import problems as feedback_problems
from rayrl.machine import Machine, inspect_machine
from rayrl.reward_roles import problems as reward_problems
from rayrl.rewards.registry import SANDBOXED, bind, scores_steps
from rayrl.sandbox.isolation import MISSING_BUBBLEWRAP, isolation

BYTES_PER_TOKEN = 4 + 1 + 4
"""Of a trajectory in the buffer: id, mask, log-prob."""


@dataclass(frozen=True)
class Plan:
    recipe: str
    mode: str
    resources: Resources
    roles: tuple[RoleResources, ...]
    memory: Mapping[str, Mapping[str, int]]
    """Bytes per actor by role and purpose; empty where the model is not on this machine."""
    batch: Mapping[str, int]
    engine: str
    engine_reason: str
    problems: tuple[str, ...]
    """What cannot work. A run with one of these would be refused."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(loaded: Loaded, machine: Machine | None = None) -> Plan:
    """The plan of a configuration (loaded with ``check=False``: its inconsistencies become problems of the plan)."""
    config, machine = loaded.config, machine or inspect_machine()
    resources = run_resources(config.placement, len(machine.cores), len(machine.gpus))
    mode = placement_mode(config, resources.gpus)
    roles = role_resources(config, resources.cpus, resources.gpus, cores=None if resources.declared else machine.cores)
    size = model_size(config.model.path)
    memory = role_memory(config, size, mode) if size else {}
    engine, reason = usable_engine(config.rollout.engine) if config.agent.env is None else ("env workers", _who_acts(config))
    problems = [
        *inconsistencies(config),
        *_placement_problems(config, mode, resources, roles),
        *(_size_problems(config, mode, size, roles, memory, machine, resources) if size else ()),
        *_name_problems(config),
        *_step_problems(config),
        *feedback_problems(config),
        *reward_problems(config),
    ]
    lacking = [*([f"no engine: {reason}"] if engine is None else []), *_missing_packages(config)]
    notes = [*_notes(config, mode, size, machine, resources)]
    (notes if resources.declared else problems).extend(lacking)
    return Plan(
        recipe=loaded.recipe,
        mode=mode,
        resources=resources,
        roles=tuple(roles),
        memory={r.name: memory[r.name] for r in roles if r.name in memory},
        batch=step_arithmetic(config),
        engine=engine or config.rollout.engine,
        engine_reason=reason,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _who_acts(config: Config) -> str:
    actors = config.agent.inference.actors
    return f"inference actors compute the policy for all of them: {actors}" if actors else "each has a copy of the policy"


def bundle_names(made: Plan) -> list[str]:
    """Who lives in each bundle of `config.placement.bundles`, e.g. ``rollout-0`` or ``rollout-0 + learner-0``."""
    names: dict[int, list[str]] = {}
    for role in made.roles:
        for i, bundle in enumerate(role.bundles):
            names.setdefault(bundle, []).append(f"{role.name}-{i}")
    return [" + ".join(names[i]) for i in sorted(names)]


def step_arithmetic(config: Config) -> dict[str, int]:
    """How big one learner step is; token counts are upper bounds, micro-batches those of sequences that are all as long as allowed."""
    batch, learner, agent = config.batch, config.learner, config.agent
    if agent.env is not None:
        frames = agent.envs_per_worker * agent.fragment_length
        return {
            "fragments per step": batch.groups_per_step,
            "frames per fragment": frames,
            "frames per step": batch.groups_per_step * frames,
            "optimiser updates per step": learner.epochs * learner.minibatches,
            "frames of the run": config.run.steps * batch.groups_per_step * frames,
            "fragments admitted and untrained, at most": (config.buffer.max_staleness + 1) * batch.groups_per_step,
        }
    longest, trajectories = longest_sequence(config), batch.groups_per_step * batch.group_size
    updates = learner.epochs * learner.minibatches
    per_update = math.ceil(trajectories / (max(1, learner.ranks) * max(1, learner.minibatches)))
    return {
        "groups per step": batch.groups_per_step,
        "samples per group": batch.group_size,
        "trajectories per step": trajectories,
        "longest sequence (tokens)": longest,
        "tokens per step, at most": trajectories * longest,
        "generation waves per step": math.ceil(trajectories / max(1, config.rollout.num_engines * config.rollout.max_running)),
        "optimiser updates per step": updates,
        "micro-batches per update and rank, at most": math.ceil(per_update / max(1, learner.token_budget // max(1, longest))),
        "groups admitted and untrained, at most": (config.buffer.max_staleness + 1) * batch.groups_per_step,
    }


def _placement_problems(config: Config, mode: str, resources: Resources, roles: list[RoleResources]) -> Iterator[str]:
    if mode != "cpu" and resources.gpus == 0:
        yield f"placement.mode is {mode} and there is no GPU: declare placement.gpus_per_node for a cluster, or set placement.mode=cpu"
        return
    asked = bundles(roles)
    for kind, have in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        need = sum(b.get(kind, 0) for b in asked)
        if need > have + 1e-6:
            per_role = ", ".join(f"{r.name} {r.count}×{r.gpus if kind == 'GPU' else r.cpus:g}" for r in roles if r.bundles)
            yield f"the roles ask for {need:g} {kind}s ({per_role}) and there are {have}: fewer engines or ranks, or more nodes"
        largest, per_node = max((b.get(kind, 0) for b in asked), default=0), have / max(1, resources.nodes)
        if need <= have and largest > per_node + 1e-6:
            yield f"one actor asks for {largest:g} {kind}s and a node has {per_node:g}: lower rollout.tensor_parallel"


def _size_problems(
    config: Config,
    mode: str,
    size: ModelSize,
    roles: list[RoleResources],
    memory: Mapping[str, Mapping[str, int]],
    machine: Machine,
    resources: Resources,
) -> Iterator[str]:
    if size.max_positions and config.model.max_length > size.max_positions:
        yield f"model.max_length {config.model.max_length} exceeds the {size.max_positions} positions of {config.model.path}"
    if mode == "cpu":
        one = longest_sequence(config) * size.kv_bytes_per_token(4 if config.model.dtype == "float32" else 2)
        if one > config.rollout.kv_cache_gib * 2**30:
            yield f"rollout.kv_cache_gib {config.rollout.kv_cache_gib:g} does not hold one longest sequence ({gib(one)}): raise it"
        total = sum(r.count * sum(memory.get(r.name, {}).values()) for r in roles) + config.placement.object_store_mib * 2**20
        if not resources.declared and total > machine.memory:
            yield f"roles and object store need at least {gib(total)} and this machine has {gib(machine.memory)}"
    elif machine.gpus and not resources.declared:
        device = min(g.memory for g in machine.gpus)
        need = sum(v for k, v in memory["learner"].items() if "host" not in k)
        if need > device:
            yield f"a learner rank needs at least {gib(need)} and a GPU has {gib(device)}: learner.zero_stage=3 and more ranks, or offload"


def _name_problems(config: Config) -> Iterator[str]:
    """Verifiers, environment and generated task must exist and take their arguments; files must be there."""
    verified = reward_sources.jobs(config).get(reward_sources.VERIFIERS, {})
    asked: list[Callable[[], Any]] = [partial(bind, name, c.verifier, c.args) for name, c in verified.items() if c.verifier]
    if config.rollout.env is not None:
        asked.append(partial(load_env, config.rollout.env))
    if config.agent.env is not None:
        asked.append(partial(load_agent_env, config.agent.env))
    if config.data.source.startswith(TASK_PREFIX):
        asked.append(partial(load_rows, config.data, "train"))
    for ask in asked:
        try:
            ask()
        except RayrlError as e:
            yield f"{e.message} ({e.hint})" if e.hint else e.message
    for key, source in (("data.source", config.data.source), ("data.eval_source", config.data.eval_source)):
        if source and source.endswith((".jsonl", ".parquet")) and not Path(source).is_file():
            yield f"{key}: there is no file {source}"


def _step_problems(config: Config) -> Iterator[str]:
    """The component that `algorithm.steps` pays step by step must score steps."""
    if config.agent.env is not None:
        return
    try:
        name = resolve(config.algorithm).knobs["steps"].get("component")
        component = config.rewards.components.get(str(name))
        whole = component is not None and (component.verifier is None or scores_steps(str(name), component.verifier) is False)
    except ConfigError:  # said by the checks of names
        return
    if whole:
        yield (
            f"algorithm.steps pays the steps that rewards.components.{name} scores, and that has one number for a whole sample: name a "
            "component in algorithm.args.component whose verifier returns a list (arithmetic_steps is one), or set algorithm.steps=none"
        )


def _missing_packages(config: Config) -> list[str]:
    wanted = [
        "ray",
        "torch",
        *(["transformers"] if config.agent.env is None else []),
        *(["deepspeed"] if config.learner.backend == "deepspeed" else []),
    ]
    missing = [name for name in wanted if not installed(name)]
    return [f"not installed: {', '.join(missing)} (run launch/setup.sh)"] if missing else []


def _notes(config: Config, mode: str, size: ModelSize | None, machine: Machine, resources: Resources) -> Iterator[str]:
    runs_code = [name for name, c in config.rewards.components.items() if c.verifier in SANDBOXED]
    if runs_code and not (sandbox := isolation()).complete:
        yield f"rewards.components.{runs_code[0]} runs what the model writes, here with {sandbox.describe()} ({MISSING_BUBBLEWRAP})"
    if size is None and config.agent.env is None:
        yield f"memory is not estimated: no checkpoint folder {config.model.path} on this machine"
    if resources.declared:
        yield f"resources are those that placement.* declares; this machine has {len(machine.cores)} cores and {len(machine.gpus)} GPUs"
    elif mode == "cpu" and machine.gpus:
        yield f"{len(machine.gpus)} GPUs stay unused: placement.mode is cpu"
    if size and mode == "cpu":
        per_sequence = longest_sequence(config) * size.kv_bytes_per_token(4 if config.model.dtype == "float32" else 2)
        fit = int(config.rollout.kv_cache_gib * 2**30 // per_sequence)
        if 0 < fit < config.rollout.max_running:
            yield f"the key/value cache holds {fit} full-length sequences of the {config.rollout.max_running} in rollout.max_running"
    if config.agent.env is not None:
        return
    step_bytes = step_arithmetic(config)["tokens per step, at most"] * BYTES_PER_TOKEN * (config.buffer.max_staleness + 1)
    if step_bytes > config.placement.object_store_mib * 2**20 and config.placement.ray_address is None:
        store = config.placement.object_store_mib
        yield f"trajectories may take {gib(step_bytes)} and placement.object_store_mib is {store}: Ray would spill to disk"


def gib(count: float) -> str:
    """Bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"
