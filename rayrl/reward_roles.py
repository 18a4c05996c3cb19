"""The roles behind judged and learned rewards, from the configuration: one that asks the judge, one for each reward model.

The ``build_*`` functions run inside the role's own process. A reward model that dies is started again from its folder in the run,
or from the beginning with all labels of the label store.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayrl.annotations import QuestionKind
from rayrl.config import reward_sources
from rayrl.config.placement import RoleResources
from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.feedback import templates
from rayrl.protocols import Annotator, ReplayBuffer, Store
from rayrl.runtime.contract import Handle, Pending, RoleSpec, Runtime
from rayrl.runtime.pool import Pool, gather
from rayrl.runtime.single import Single

_NICE = 5
"""Engines and learner go first on a machine whose cores they share with a reward model. An agent's rater stands where the env workers
do: one that stepped back further would not learn at all on a machine that is busy."""
_RESTARTS = 10
MODELS = "reward_models"
"""Folder of their states in a commit."""


_KINDS = {
    "ranking": QuestionKind.PAIR,
    "regression": QuestionKind.SCORE,
    "gaussian": QuestionKind.SCORE,
    "classification": QuestionKind.CLASS,
}
"""What a judge must be asked for each objective."""


def problems(config: Config) -> Iterator[str]:
    """Prompt templates that are not there, or whose answers are of another kind than a component or a reward model needs."""
    if config.feedback.judge == "none":
        return
    for name, component in config.rewards.components.items():
        if component.judge is None:
            continue
        key = f"rewards.components.{name}.judge"
        try:
            template = templates.load(component.judge, key)
            template.goal_sentence(config.feedback.goal)
        except ConfigError as e:
            yield f"{e.message} ({e.hint})"
            continue
        if template.kind in (QuestionKind.PAIR, QuestionKind.RANKING) and config.batch.group_size < 2:
            yield f"{key} {component.judge} compares samples of one prompt and batch.group_size is {config.batch.group_size}: raise it"
    yield from _retrieved(config)
    for name, model in config.reward_models.items():
        if not model.online:
            continue
        try:
            kind = templates.load(config.feedback.template).kind
        except ConfigError:
            return  # said by the preflight of feedback
        wanted = QuestionKind.RANKING if model.listwise else _KINDS.get(model.objective)
        if kind is not wanted:
            yield (
                f"reward_models.{name}.objective {model.objective} learns from {wanted} questions and feedback.template "
                f"{config.feedback.template} asks for a {kind}: change one of them"
            )


def _retrieved(config: Config) -> Iterator[str]:
    """Labels that an agent's messages are looked up in."""
    if config.agent.env is None or config.agent.intrinsic.kind != "retrieval":
        return
    try:
        kind = templates.load(config.feedback.template).kind
    except ConfigError:
        return  # said by the preflight of feedback
    if kind not in (QuestionKind.SCORE, QuestionKind.CLASS):
        yield (
            f"agent.intrinsic.kind is retrieval and feedback.template {config.feedback.template} asks for a {kind}: a message needs a "
            "label of its own; take another template, or kind ranking"
        )


class RewardSources:
    """One supervised actor per scoring job, verifiers left out."""

    def __init__(self, config: Config, pools: Mapping[str, Pool]) -> None:
        self._pools = dict(pools)
        self._jobs = {component: job for job, found in reward_sources.jobs(config).items() for component in found}
        rating = reward_sources.rater(config)
        self.rater = self._pools[rating].handles[0].lasting() if rating else None
        """Who rates an agent's messages; its calls reach its replacement after it died."""
        self._model_stats: dict[str, dict[str, float]] = {}

    @property
    def handles(self) -> list[Handle]:
        return [handle for pool in self._pools.values() for handle in pool.handles]

    def pool_of(self, component: str) -> Pool | None:
        """Who scores a component; None where a verifier does."""
        return self._pools.get(self._jobs[component])

    def pools(self) -> list[Pool]:
        return list(self._pools.values())

    def run(self) -> None:
        for pool in self._pools.values():
            pool.run()

    def check(self) -> None:
        """Replaces who died. Cheap when nothing happened."""
        for pool in self._pools.values():
            pool.check()

    def stop(self, timeout_s: float) -> None:
        for pool in self._pools.values():
            pool.stop(timeout_s)

    def stats(self, timeout_s: float) -> list[dict[str, Any]]:
        """One per role that lives, as `RewardWorker.stats`."""
        found = [(job, stats) for job, pool in self._pools.items() for stats in pool.observe("stats", timeout_s)]
        self._model_stats |= {job: stats["model"] for job, stats in found if "model" in stats}
        return [stats for _, stats in found]

    def metrics(self) -> dict[str, float]:
        """``reward_model/<name>/<quantity>`` of the last `stats`."""
        return {
            f"reward_model/{job.removeprefix(reward_sources.MODEL_PREFIX)}/{name}": value
            for job, model in self._model_stats.items()
            for name, value in model.items()
        }

    def save(self, place: Path) -> list[Pending]:
        """Every reward model begins to write itself into a commit, as it is now."""
        under_way: list[Pending] = []
        for job, pool in self._models().items():
            (place / MODELS).mkdir(parents=True, exist_ok=True)
            pool.wait_for_one()
            under_way += pool.submit("save", place / MODELS / job)
        return under_way

    def load(self, place: Path, timeout_s: float) -> None:
        """Raises `CheckpointError` where the commit has none."""
        gather([pool.handles[0].submit("load", place / MODELS / job) for job, pool in self._models().items()], timeout_s)

    def _models(self) -> dict[str, Pool]:
        return {job: pool for job, pool in self._pools.items() if job != reward_sources.JUDGES}


def start_sources(
    config: Config,
    runtime: Runtime,
    resources: Mapping[str, RoleResources],
    buffer: Single,
    annotator: Handle | None,
    folder: Path,
    resuming: bool = False,
) -> RewardSources:
    """``folder``: where reward models keep their state; what lies there is of this run only when it is ``resuming``."""
    if wrong := list(problems(config)):
        raise ConfigError("\n".join(wrong), "`rayrl plan` shows them before anything starts")
    if not resuming:
        shutil.rmtree(folder, ignore_errors=True)
    specs = []
    found, rater = reward_sources.jobs(config), reward_sources.rater(config)
    for job in reward_sources.roles(config):
        role, components = resources[job], found.get(job, {})
        if job == rater:
            kwargs = {"config": config, "annotator": annotator, "job": job, "folder": folder / job}
            specs.append(RoleSpec(job, build_rater, kwargs, threads=role.threads, nice=_NICE, concurrency=8, lasting=True, trace=False))
            continue
        judged = job == reward_sources.JUDGES
        kwargs = {
            "config": config,
            "store": runtime.store,
            "buffer": buffer.handle,
            "annotator": annotator,
            "job": job,
            "components": components,
        }
        specs.append(
            RoleSpec(
                job,
                build_judge_worker if judged else build_reward_model,
                kwargs if judged else kwargs | {"folder": folder / job},
                cpus=role.cpus,
                gpus=role.gpus,
                bundle=role.bundles[0] if role.bundles else None,
                threads=role.threads,
                nice=0 if judged else _NICE,
                concurrency=8,
            )
        )
    handles = runtime.start(specs, config.deadlines.start_s) if specs else []
    pools = {
        spec.name: Pool(
            runtime,
            [spec],
            [handle],
            start_s=config.deadlines.start_s,
            restarts=_RESTARTS,
            on_lost=lambda name: buffer.release_worker(name),
        )
        for spec, handle in zip(specs, handles, strict=True)
    }
    return RewardSources(config, pools)


def build_judge_worker(
    config: Config, store: Store, buffer: ReplayBuffer, annotator: Annotator | None, job: str, components: dict[str, Any]
) -> Any:
    from rayrl.rewards.judged import JudgeWorker

    if annotator is None:
        raise ConfigError("a reward component asks a judge and feedback.judge is none", "set feedback.judge")
    return JudgeWorker(
        job,
        buffer,
        store,
        annotator,
        components,
        job,
        deadline_s=config.rewards.deadline_s,
        patient=config.rewards.on_failure == "rescore",
        fetch_s=config.deadlines.call_s,
        kinds={name: templates.load(c.judge).kind for name, c in components.items()},
    )


def build_rater(config: Config, annotator: Annotator | None, job: str, folder: Path) -> Any:
    import torch

    from rayrl.reward_models.build import build_fitter
    from rayrl.reward_models.rater import MessageRater

    settings = config.reward_models[job.removeprefix(reward_sources.MODEL_PREFIX)]
    torch.set_num_threads(settings.cpu_threads)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fitter = build_fitter(settings, config.model, seed=config.run.seed)
    asked = annotator if settings.online else None
    return MessageRater(fitter, settings, asked, folder=folder, lockstep=config.run.deterministic)


def build_reward_model(
    config: Config,
    store: Store,
    buffer: ReplayBuffer,
    annotator: Annotator | None,
    job: str,
    components: dict[str, Any],
    folder: Path,
) -> Any:
    import torch

    from rayrl.reward_models.build import build_fitter
    from rayrl.reward_models.worker import RewardModelWorker

    settings = config.reward_models[job.removeprefix(reward_sources.MODEL_PREFIX)]
    torch.set_num_threads(settings.cpu_threads)
    device = "cuda" if settings.gpus and torch.cuda.is_available() else "cpu"
    fitter = build_fitter(settings, config.model, seed=config.run.seed, device=device)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return RewardModelWorker(
        job,
        buffer,
        store,
        fitter,
        settings,
        components,
        annotator if settings.online else None,
        deadline_s=config.rewards.deadline_s,
        folder=folder,
        seed=config.run.seed,
        fetch_s=config.deadlines.call_s,
    )
