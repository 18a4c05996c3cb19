"""From a configuration to running roles: the one place that knows which class plays which part.

The ``build_*`` functions run inside the role's own process, so heavy imports stay there. Everything they take can be pickled.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rayrl import agent_assembly
from rayrl.agent_view import AgentView
from rayrl.agent_workload import TicketWorkload
from rayrl.config import reward_sources
from rayrl.config.placement import (
    GROUP_TOKEN,
    RoleResources,
    bundles,
    needs_reference,
    placement_mode,
    role_resources,
    run_resources,
    weight_transport,
)
from rayrl.config.schema import Config
from rayrl.elastic import Elastic
from rayrl.errors import BufferLost, RoleFailed
from rayrl.feedback_roles import Feedback, start_feedback
from rayrl.machine import inspect_machine
from rayrl.protocols import ReplayBuffer, Store, TextEnv
from rayrl.reward_roles import RewardSources, start_sources
from rayrl.rollout.select import choose_engine
from rayrl.runtime.contract import Handle, RoleSpec, Runtime
from rayrl.runtime.pool import Pool, Ranks
from rayrl.runtime.single import Single
from rayrl.types import IntArray, Prompt
from rayrl.views import LanguageView, View
from rayrl.workload import PromptWorkload, Workload

DROPPED_KEPT = 32
"""Most dropped groups whose trajectories are written per step; the others are only counted."""


@dataclass
class Roles:
    """Everything that runs beside the driver."""

    runtime: Runtime
    buffer: Single
    rollout: Pool
    scorers: Pool
    learner: Ranks
    reference: Pool
    archive: Pool | None
    feedback: Feedback | None
    sources: RewardSources
    """Judges and reward models; verifiers are `scorers`."""
    inference: Pool | None = None
    """Computes the policy for an agent's env workers; None where they do it themselves."""
    transport: str = "store"
    """How weights travel: `placement.weight_transport`."""
    elastic: Elastic | None = None
    """Lets rollout workers come and go; None where their number is fixed."""

    @property
    def policies(self) -> Pool:
        """Who is given new weights."""
        return self.inference or self.rollout

    def spans(self, timeout_s: float) -> dict[str, list[Any]]:
        """By role: what each process did since the last call. Nothing of a process that died meanwhile."""
        handles = [*self.rollout.handles, *self.scorers.handles, *self.sources.handles, *self.learner.handles, *self.reference.handles]
        found = {}
        for handle, pending in [(handle, handle.spans()) for handle in handles]:
            with suppress(RoleFailed):
                found[handle.name] = pending.result(timeout_s)
        return found

    def run(self) -> None:
        """Starts the loops."""
        for pool in self._supervised():
            pool.run()

    def check(self) -> None:
        """Replaces the workers that died. Cheap when nothing happened."""
        for pool in self._supervised():
            pool.check()
        if self.elastic:
            self.elastic.check()

    def stop(self, timeout_s: float) -> None:
        """Ends the loops: finished groups are still handed over, running ones are abandoned (their ordinals stay in the ledger)."""
        for pool in reversed(self._supervised()):
            pool.stop(timeout_s)

    def pools(self) -> list[Pool]:
        """Of single workers that are replaced when they die."""
        feedback = self.feedback.pools() if self.feedback else []
        optional = [pool for pool in (self.archive, self.inference) if pool]
        return [*feedback, *self.sources.pools(), self.scorers, self.reference, *optional, self.rollout]

    def _supervised(self) -> list[Any]:
        """Each after those that it calls."""
        passive = [self.reference, *(pool for pool in (self.archive, self.inference) if pool)]
        return [*([self.feedback] if self.feedback else []), self.sources, self.scorers, *passive, self.rollout]

    def scorer(self, component: str) -> Handle:
        """Who scores a reward component for a caller (evaluation)."""
        pool = self.sources.pool_of(component) or self.scorers
        pool.wait_for_one()
        return pool.handles[0]


def start_runtime(config: Config, log_dir: Path) -> tuple[Runtime, dict[str, RoleResources], str]:
    """Ray with the bundles that the configuration asks for, and what each role gets of them, and the placement mode that this is.

    Or, with ``placement.runtime`` in_process, this process and its threads.
    """
    machine = inspect_machine()
    if config.placement.runtime == "in_process":
        from rayrl.runtime.local import LocalRuntime

        here = role_resources(config, len(machine.cores), 0, cores=None)
        return LocalRuntime(config.deadlines.call_s), {role.name: role for role in here}, "cpu"
    from rayrl.runtime.ray_runtime import RayRuntime

    found = run_resources(config.placement, len(machine.cores), len(machine.gpus))
    roles = role_resources(config, found.cpus, found.gpus, cores=None if found.declared else machine.cores)
    resources = {role.name: role for role in roles}
    asked = bundles(roles, config.placement.node_groups)
    runtime = RayRuntime(config.placement, config.deadlines, log_dir, bundles=asked, local_cpus=found.cpus // found.nodes)
    return runtime, resources, placement_mode(config, found.gpus)


def start_roles(
    config: Config,
    runtime: Runtime,
    resources: dict[str, RoleResources],
    mode: str,
    rollouts: Path | None,
    feedback: Path,
    learned: Path,
    journal: Path,
    resuming: bool = False,
) -> Roles:
    """Starts all roles side by side; returns when every one of them has loaded its model. ``rollouts`` is where trajectories are kept,
    ``feedback`` the file of the judge's labels, ``learned`` the folder of reward models,
    ``journal`` what the buffer writes down for its replacement."""
    start_s, agent = config.deadlines.start_s, config.agent.env is not None
    transport = "store" if agent else weight_transport(config, mode, choose_engine(config.rollout)[0])
    shared = {"config": config, "store": runtime.store}
    hold, roll = (agent_assembly.build_buffer, agent_assembly.build_env_worker) if agent else (build_buffer, build_rollout)
    kept = RoleSpec("buffer", hold, shared | {"journal": journal}, concurrency=64, trace=False, lasting=True)
    single = Single(runtime, kept, start_s, BufferLost)
    buffer = single.handle
    released = lambda name: single.release_worker(name)
    judged = start_feedback(config, runtime, resources, feedback, resuming=resuming)
    begin_sources = partial(start_sources, config, runtime, resources, single, judged.annotator if judged else None, learned, resuming)
    told = {"annotator": judged.annotator} if agent and judged else {}
    sources = begin_sources() if agent else None  # the learner asks an agent's rater, so that it comes first
    inference = agent_assembly.start_inference(config, runtime, resources.get("inference"))
    served = {"inference": [handle.lasting() for handle in inference.handles]} if inference else {}
    playing = shared | told | served | {"buffer": buffer, "transport": transport}
    rollout = _specs(resources["rollout"], roll, playing, concurrency=16, named=True)
    rollout = [replace(spec, kwargs=dict(spec.kwargs) | {"index": i}) for i, spec in enumerate(rollout)]
    scoring = resources.get("scorer")  # absent where no component has a verifier
    scorers = _specs(scoring, build_scorer, shared | {"buffer": buffer}, concurrency=4, named=True) if scoring else []
    rating = {"rater": sources.rater} if sources and sources.rater else {}
    learner = _specs(resources["learner"], build_learner, shared | told | rating | {"transport": transport}, concurrency=1)
    ranks_anew = lambda: runtime.start(_meeting(runtime, learner), start_s)
    reference = _specs(resources["reference"], build_reference, shared, concurrency=1) if needs_reference(config) else []
    reference = [replace(spec, passive=True) for spec in reference]
    keeping = shared | {"folder": rollouts, "buffer": buffer}
    archive = [RoleSpec("archive", build_archive, keeping, threads=1, concurrency=2, passive=True)] if rollouts else []
    groups = [rollout, scorers, _meeting(runtime, learner), reference, archive]
    handles = iter(runtime.start([spec for group in groups for spec in group], start_s))
    engines, verifying, ranks, frozen, archives = ([next(handles) for _ in group] for group in groups)
    return Roles(
        runtime,
        single,
        Pool(runtime, rollout, engines, start_s=start_s, on_lost=released),
        Pool(runtime, scorers, verifying, start_s=start_s, on_lost=released),
        Ranks(runtime, ranks_anew, ranks),
        Pool(runtime, reference, frozen, start_s=start_s),
        Pool(runtime, archive, archives, start_s=start_s) if archives else None,
        judged,
        sources or begin_sources(),
        inference,
        transport,
    )


def let_come_and_go(config: Config, roles: Roles, resources: dict[str, RoleResources], say: Callable[[str], None]) -> None:
    """Where ``placement.max_rollout`` allows it."""
    if not config.placement.max_rollout:
        return
    role, group = resources["rollout"], config.placement.node_groups.get("rollout")
    needs = {"CPU": role.cpus, "GPU": role.gpus} | ({group: GROUP_TOKEN} if group else {})
    roles.elastic = Elastic(
        roles.runtime,
        roles.rollout,
        roles.rollout.specs[0],
        {name: amount for name, amount in needs.items() if amount},
        config.placement.max_rollout,
        patience_s=config.deadlines.drain_s,
        say=say,
        resized=roles.buffer.set_num_workers,
    )


def _meeting(runtime: Runtime, learner: list[RoleSpec]) -> list[RoleSpec]:
    """The learner's specs with rank, number of ranks, and a free address where several of them meet."""
    address = runtime.reserve_address(replace(learner[0], name="rendezvous")) if len(learner) > 1 else ""
    return [replace(s, kwargs=dict(s.kwargs) | {"rank": i, "ranks": len(learner), "address": address}) for i, s in enumerate(learner)]


def load_workload(config: Config, say: Callable[[str], None]) -> Workload:
    """What the policy is given to do. Raises `DataError` or `ModelError` before any role is started."""
    if config.agent.env is not None:
        return TicketWorkload(config)
    say("loading prompts")
    return PromptWorkload(config)


def load_view(config: Config) -> View:
    return LanguageView(config) if config.agent.env is None else AgentView(config)


def build_buffer(config: Config, store: Store, journal: Path) -> Any:
    from rayrl.algorithms import registry
    from rayrl.buffer.journal import Journal
    from rayrl.buffer.outcomes import OutcomeLog
    from rayrl.buffer.service import BufferService

    algorithm = registry.resolve(config.algorithm)
    entry, knobs = registry.aggregator(config.rewards)
    aggregate = registry.load(registry.AGGREGATORS, config.rewards.aggregate, "rewards.aggregate")
    return BufferService(
        config.buffer,
        weights={name: component.weight for name, component in config.rewards.components.items() if component.weight != 0},
        aggregate=partial(aggregate, **knobs) if knobs else aggregate,
        gaps=entry.gaps,
        group_filter=registry.load(registry.FILTERS, algorithm.filter, "algorithm.filter"),
        on_failure=config.rewards.on_failure,
        fallback_value=config.rewards.fallback_value,
        jobs=tuple(reward_sources.jobs(config)),
        num_workers=config.rollout.num_engines,
        store=store,
        outcomes=OutcomeLog(max_groups=config.buffer.max_groups, max_dropped=DROPPED_KEPT) if config.telemetry.rollouts else None,
        journal=Journal(journal),
    )


def build_rollout(config: Config, store: Store, name: str, index: int, buffer: ReplayBuffer, transport: str) -> Any:
    from rayrl.data.tokenizer import load_tokenizer
    from rayrl.rollout.select import build_engine
    from rayrl.rollout.worker import RolloutWorker

    engine, reason = build_engine(config.model, config.rollout, seed=config.run.seed, transport=transport)
    print(f"{name}: {reason}", flush=True)
    tokenizer = load_tokenizer(config.model)
    return RolloutWorker(
        name,
        index,
        engine,
        buffer,
        store,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        env_factory=_environment(config),
        given=_given(config, tokenizer),
        max_turns=config.rollout.max_turns,
        max_length=config.model.max_length,
        max_running=config.rollout.max_running,
        lease_all=config.buffer.max_staleness == 0,
        call_s=config.deadlines.call_s,
        sync_s=config.deadlines.sync_s,
    )


def build_scorer(config: Config, store: Store, name: str, buffer: ReplayBuffer) -> Any:
    from rayrl.rewards.scorer import VerifierScorer
    from rayrl.rewards.worker import RewardWorker

    components = reward_sources.jobs(config)[reward_sources.VERIFIERS]
    return RewardWorker(name, buffer, store, VerifierScorer(components, config.rewards), reward_sources.VERIFIERS)


def build_learner(
    config: Config, store: Store, rank: int, ranks: int, address: str, transport: str, annotator: Any = None, rater: Any = None
) -> Any:
    from rayrl.learner.networks import LanguageNetworks

    build = LanguageNetworks if config.agent.env is None else agent_assembly.networks(config, annotator, rater)
    if config.learner.backend == "torch":
        from rayrl.learner.torch import TorchLearner

        return TorchLearner(config, store, build=build, transport=transport)
    from rayrl.learner.deepspeed import DeepSpeedLearner

    host, _, port = (address or "127.0.0.1:0").rpartition(":")
    return DeepSpeedLearner(
        config, store, rank=rank, world_size=ranks, master_addr=host, master_port=int(port) or free_port(), build=build, transport=transport
    )


def build_reference(config: Config, store: Store) -> Any:
    from rayrl.learner.reference import ReferenceModel

    return ReferenceModel(config, store)


def build_archive(config: Config, store: Store, folder: Path, buffer: ReplayBuffer) -> Any:
    from rayrl.data.arrow import encode_records
    from rayrl.telemetry.archive import Archive

    return Archive(folder, store, buffer, encode_records, fetch_s=config.deadlines.call_s)


def free_port() -> int:
    """A port of this machine that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(config: Config) -> Callable[[Prompt], TextEnv] | None:
    if config.rollout.env is None:
        return None
    from rayrl.envs.registry import load_env

    env, args = load_env(config.rollout.env), config.rollout.env_args
    return lambda prompt: env(prompt, **args)


def _given(config: Config, tokenizer: Any) -> Callable[[Prompt], list[IntArray]] | None:
    """Completions of a prompt as ids that end as a sampled answer ends."""
    name = config.data.completions_field
    if name is None:
        return None
    end = [tokenizer.eos_token_id]
    ids = lambda text: np.array(tokenizer(text, add_special_tokens=False)["input_ids"] + end, np.int32)
    return lambda prompt: [ids(text) for text in prompt.metadata.get(name, ())]


def _specs(
    role: RoleResources, build: Callable[..., Any], kwargs: dict[str, Any], *, concurrency: int, named: bool = False
) -> list[RoleSpec]:
    """One spec per actor. ``named`` roles are told their own name: the buffer knows them by it."""
    specs = []
    for i in range(role.count):
        name = f"{role.name}-{i}"
        specs.append(
            RoleSpec(
                name,
                build,
                kwargs | ({"name": name} if named else {}),
                cpus=role.cpus,
                gpus=role.gpus,
                bundle=role.bundles[i] if role.bundles else None,
                threads=role.threads,
                cores=role.cores[i] if role.cores else (),
                nice=role.nice,
                concurrency=concurrency,
            )
        )
    return specs
