"""From a configuration and a number of cores and GPUs to what every role gets. Pure: `rayrl plan` prints it, the driver obeys it.

Modes: ``cpu`` (no GPU; in synchronous runs engines and learner take turns on all cores, in asynchronous runs they get cores of
their own), ``disaggregated`` (own GPUs for each role), ``colocated`` (each engine shares a GPU with a learner rank and sleeps
while it works).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayrl.algorithms import registry
from rayrl.config import reward_sources
from rayrl.config.schema import Config, PlacementConfig
from rayrl.errors import ConfigError

ENV_WORKER_NICE = 5
"""Env workers leave the cores to the learner, which everybody waits for."""
MOST_ENGINE_THREADS = 8
"""Of a CPU engine, unless `rollout.cpu_threads` says otherwise: more slow a small model down."""
ENGINE_SHARE, LEARNER_SHARE, REFERENCE_SHARE = 0.4, 0.4, 0.2
"""Fractions of one GPU that colocated roles reserve from Ray. They say who shares, not how much memory each may take."""


@dataclass(frozen=True)
class RoleResources:
    """What the actors of one role reserve and use."""

    name: str
    """rollout, inference, learner, reference, judge, scorer, judges, reward_model-NAME or buffer."""
    count: int
    """Actors."""
    cpus: float
    """Reserved from Ray, per actor. Fractions where roles share cores."""
    gpus: float
    """Reserved from Ray, per actor. Fractions where roles share a GPU."""
    threads: int
    """Compute threads, per actor."""
    cores: tuple[tuple[int, ...], ...] = ()
    """Cores that each actor is pinned to; empty is not pinned."""
    bundles: tuple[int, ...] = ()
    """Index into `bundles` of each actor; empty for roles that live anywhere (they reserve nothing)."""
    processes: int = 0
    """Child processes, per actor."""
    nice: int = 0
    """How much the processes step back for others that share their cores."""


@dataclass(frozen=True)
class Resources:
    """What the run counts on, on all nodes together."""

    nodes: int
    cpus: int
    gpus: int
    declared: bool
    """From ``placement.*`` rather than from the machine at hand."""


def run_resources(placement: PlacementConfig, cores: int, gpus: int) -> Resources:
    """What ``placement.*`` declares, and else the ``cores`` and ``gpus`` of the machine at hand."""
    declared = placement.nodes > 1 or placement.gpus_per_node > 0 or placement.cpus_per_node > 0
    cores_per_node, gpus_per_node = placement.cpus_per_node or cores, placement.gpus_per_node if declared else gpus
    return Resources(placement.nodes, placement.nodes * cores_per_node, placement.nodes * gpus_per_node, declared)


def placement_mode(config: Config, gpus: float) -> str:
    """``cpu``, ``disaggregated`` or ``colocated``: what ``placement.mode`` says, or for ``auto`` what ``gpus`` allow."""
    if config.placement.mode != "auto":
        return config.placement.mode
    if gpus <= 0:
        return "cpu"
    if gpus >= disaggregated_gpus(config):
        return "disaggregated"
    return "colocated" if config.agent.env is None else "cpu"  # env workers have no memory to hand over


def disaggregated_gpus(config: Config) -> float:
    """GPUs that own devices for every role take."""
    agent = config.agent.inference
    rollout = config.rollout.num_engines * config.rollout.tensor_parallel if config.agent.env is None else agent.actors * agent.gpus
    reference = config.reference.actors if needs_reference(config) else 0
    judges = judge_workers(config) * config.feedback.engine.tensor_parallel
    models = sum(model.gpus for model in config.reward_models.values())
    return rollout + config.learner.ranks * config.placement.learner_gpus_per_rank + reference + judges + models


def weight_transport(config: Config, mode: str, engine: str) -> str:
    """``store``, ``nccl`` or ``ipc``: what ``sync.transport`` says, or for ``auto`` what placement ``mode`` and ``engine`` allow."""
    if config.sync.transport != "auto":
        return config.sync.transport
    if engine != "vllm" or mode == "cpu":
        return "store"
    return "ipc" if mode == "colocated" else "nccl"


def rollout_actors(config: Config) -> int:
    """Engines of a language model, or env workers of an agent."""
    return config.rollout.num_engines if config.agent.env is None else config.agent.workers


def inference_actors(config: Config) -> int:
    """Actors that compute the policy for env workers."""
    return config.agent.inference.actors if config.agent.env is not None else 0


def needs_reference(config: Config) -> bool:
    """Whether a frozen reference model is started: for a KL penalty, or for a loss that compares with it."""
    if config.algorithm.kl.coef != 0:
        return True
    try:
        return registry.resolve(config.algorithm).needs_reference
    except ConfigError:  # `config.checks` says what is wrong with the algorithm
        return False


def judge_workers(config: Config) -> int:
    """Judge engines that are started in this cluster."""
    return config.feedback.engine.actors if config.feedback.judge == "vllm" else 0


def role_resources(config: Config, cpus: int, gpus: float, *, cores: Sequence[int] | None = None) -> list[RoleResources]:
    """What each role gets of ``cpus`` cores and ``gpus`` GPUs in all.

    ``cores`` are the ids of the cores that may be used on a single machine (default ``0 … cpus-1``); pins are drawn from them.
    Nothing here fails: whether the machine suffices is for `rayrl plan` and for Ray to say.
    """
    mode = placement_mode(config, gpus)
    heavy = _on_cpu(config, cpus, list(cores) if cores is not None else list(range(cpus))) if mode == "cpu" else _on_gpus(config, mode)
    # an agent's rewards come with its fragments
    verified = reward_sources.VERIFIERS in reward_sources.jobs(config)
    scorer = [RoleResources("scorer", 1, cpus=0.0, gpus=0.0, threads=1, processes=config.rewards.workers)] if verified else []
    return [*heavy, *_reward_sources(config, heavy, mode), *scorer, RoleResources("buffer", 1, cpus=0.0, gpus=0.0, threads=1)]


def _reward_sources(config: Config, heavy: Sequence[RoleResources], mode: str) -> list[RoleResources]:
    """The role that asks the judge, and one for each reward model: on the CPU, or with GPUs of its own."""
    found, bundle = [], 1 + max((index for role in heavy for index in role.bundles), default=-1)
    for job in reward_sources.roles(config):
        if job == reward_sources.JUDGES:
            found.append(RoleResources(job, 1, 0.0, 0.0, threads=1))
        model = config.reward_models.get(job.removeprefix(reward_sources.MODEL_PREFIX))
        if job.startswith(reward_sources.MODEL_PREFIX) and model is not None:
            own = model.gpus > 0 and mode != "cpu"
            found.append(
                RoleResources(job, 1, 1.0, model.gpus, threads=1, bundles=(bundle,))
                if own
                else RoleResources(job, 1, 0.0, 0.0, threads=model.cpu_threads)
            )
            bundle += own
    return found


GROUP_TOKEN = 0.001
"""Of its node group's custom resource, what one bundle takes: it says where, not how much."""


def bundles(roles: Sequence[RoleResources], node_groups: Mapping[str, str] | None = None) -> list[dict[str, float]]:
    """Placement-group bundles: one per heavy actor, or one per GPU where roles are colocated.

    ``node_groups`` is ``placement.node_groups``: a bundle of such a role also asks for the group's custom resource.
    """
    result: dict[int, dict[str, float]] = {}
    for role in roles:
        for index in role.bundles:
            bundle = result.setdefault(index, {"CPU": 0.0, "GPU": 0.0})
            bundle["CPU"] = round(bundle["CPU"] + role.cpus, 2)
            bundle["GPU"] = round(bundle["GPU"] + role.gpus, 2)
            if node_groups and role.name in node_groups:
                bundle[node_groups[role.name]] = GROUP_TOKEN
    return [{k: v for k, v in result[i].items() if v} for i in sorted(result)]


def _on_cpu(config: Config, cpus: int, cores: list[int]) -> list[RoleResources]:
    engines, ranks, references = rollout_actors(config), config.learner.ranks, config.reference.actors if needs_reference(config) else 0
    asynchronous = config.buffer.max_staleness > 0
    node = max(1, cpus // config.placement.nodes)  # no actor has threads on two nodes
    engine_threads = _engine_threads(config, min(node, max(1, cpus // engines)))
    free = max(1, cpus - engines * engine_threads) if asynchronous else cpus
    learner_threads = 1 if config.run.deterministic else config.learner.cpu_threads or min(node, max(1, free // ranks))
    beside = engines * engine_threads if asynchronous else cpus
    reference_threads = config.reference.cpu_threads or min(node, max(1, beside // max(1, references)))
    wanted = [
        ("rollout", engines, engine_threads),
        ("learner", ranks, learner_threads),
        ("reference", references, reference_threads),
        ("inference", inference_actors(config), config.agent.inference.cpu_threads),
        ("judge", judge_workers(config), config.feedback.engine.cpu_threads),
    ]
    share = min(1.0, cpus / sum(count * threads for _, count, threads in wanted))
    separate = config.placement.pin and asynchronous and config.placement.nodes == 1 and len(cores) > engines * engine_threads
    roles, bundle = [], 0
    for name, count, threads in wanted:
        if not count:
            continue
        pins = tuple(_pin(name, i, engine_threads, engines, cores) for i in range(count)) if separate else ()
        reserved = int(100 * threads * share) / 100  # rounded down, so that the sum never exceeds the machine
        nice = ENV_WORKER_NICE if name == "rollout" and config.agent.env is not None else 0
        roles.append(RoleResources(name, count, max(reserved, 0.01), 0.0, threads, pins, tuple(range(bundle, bundle + count)), nice=nice))
        bundle += count
    return roles


def _engine_threads(config: Config, share: int) -> int:
    """Threads of an engine that has ``share`` cores to itself while it works."""
    if config.agent.env is not None:
        return 1
    if config.rollout.cpu_threads or config.run.deterministic or config.buffer.max_staleness > 0:
        return max(1, config.rollout.cpu_threads)  # beside a learner that works at the same time one core is enough
    return min(share, MOST_ENGINE_THREADS)


def _pin(name: str, index: int, engine_threads: int, engines: int, cores: list[int]) -> tuple[int, ...]:
    """Engines take the first cores, one set each; learner ranks have the rest to themselves.

    Reference, inference and judges work beside the engines: generation leaves them room, while the learner is what bounds a step.
    """
    if name == "rollout":
        return tuple(cores[index * engine_threads : (index + 1) * engine_threads])
    if name in ("reference", "inference", "judge"):
        return tuple(cores[: engines * engine_threads])
    return tuple(cores[engines * engine_threads :])


def _on_gpus(config: Config, mode: str) -> list[RoleResources]:
    colocated, plays = mode == "colocated", config.agent.env is not None
    engine_gpus = 0.0 if plays else ENGINE_SHARE if colocated else float(config.rollout.tensor_parallel)
    wanted = [
        ("rollout", rollout_actors(config), engine_gpus),
        ("inference", inference_actors(config), config.agent.inference.gpus),
        ("learner", config.learner.ranks, LEARNER_SHARE if colocated else config.placement.learner_gpus_per_rank),
        ("reference", config.reference.actors if needs_reference(config) else 0, REFERENCE_SHARE if colocated else 1.0),
    ]
    roles, bundle = [], 0
    for name, count, gpus in wanted:
        if not count:
            continue
        first = 0 if colocated else bundle
        roles.append(RoleResources(name, count, 1.0, gpus, threads=1, bundles=tuple(range(first, first + count))))
        bundle = max(bundle, first + count)
    judges = judge_workers(config)
    if judges:  # they never sleep, so they have GPUs of their own in every mode
        places = tuple(range(bundle, bundle + judges))
        roles.append(RoleResources("judge", judges, 1.0, float(config.feedback.engine.tensor_parallel), threads=1, bundles=places))
    return roles
