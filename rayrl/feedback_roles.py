"""The roles behind feedback, from the configuration: one annotator, and the judge engines of this cluster where it asks those.

The ``build_*`` functions run inside the role's own process. The annotator holds the run's labels in ``feedback.sqlite``; when it
dies it is started again from that file, and whoever calls it through `Feedback.annotator` reaches the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rayrl.config.placement import RoleResources
from rayrl.config.schema import Config, ModelConfig, RolloutConfig
from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.feedback import preflight
from rayrl.feedback.database import is_whole
from rayrl.runtime.contract import Handle, Pending, RoleSpec, Runtime
from rayrl.runtime.pool import Pool

ANNOTATOR = "annotator"
_RESTARTS = 1000
"""An annotator may die as often as it likes: the run goes on with the labels that are there."""
_CALLS = 16
"""Calls of other roles that the annotator serves at once; some of them wait (`ask`)."""


class Feedback:
    """The annotator and its judges, supervised."""

    def __init__(self, annotator: Pool, judges: Pool | None, call_s: float) -> None:
        self._annotators, self._judges, self._call_s = annotator, judges, call_s
        self.annotator = annotator.handles[0].lasting()
        """What other roles are given; fulfils `protocols.Annotator`. Calls raise `RoleFailed` while it is being restarted."""
        self._last: dict[str, float] = {}
        if judges is not None:
            judges.on_back = lambda handle: self._tell_judges()
            annotator.on_back = lambda handle: handle.submit("use_judges", judges.handles)

    @property
    def handles(self) -> list[Handle]:
        return [*self._annotators.handles, *(self._judges.handles if self._judges else [])]

    @property
    def restarts(self) -> int:
        return self._annotators.restarts

    def run(self) -> None:
        for pool in self.pools():
            pool.run()

    def check(self) -> None:
        """Replaces who died. Cheap when nothing happened."""
        for pool in self.pools():
            pool.check()

    def stop(self, timeout_s: float) -> None:
        for pool in self.pools():
            pool.stop(timeout_s)

    def stats(self) -> dict[str, float]:
        """Metrics ``feedback/...``; the last ones known while the annotator does not answer."""
        try:
            self._last = dict(self.annotator.submit("stats").result(self._call_s))
        except (RoleFailed, DeadlineExceeded):
            self._last |= {"feedback/degraded_bool": 1.0}
        return self._last | {"feedback/restarts_count": float(self.restarts)}

    def problem(self) -> str:
        """Why no question is answered at present; empty when all is well."""
        try:
            return self.annotator.submit("problem").result(self._call_s)
        except (RoleFailed, DeadlineExceeded) as e:
            return e.message

    def save(self, path: Path) -> list[Pending]:
        """The label store begins to write a copy of itself: every question, what waits and what is answered."""
        self._annotators.wait_for_one()
        return self._annotators.submit("save", path)

    def pools(self) -> list[Pool]:
        return [*([self._judges] if self._judges else []), self._annotators]

    def _tell_judges(self) -> None:
        assert self._judges is not None
        with suppress(RoleFailed):  # one that is being restarted is told when it is back
            self.annotator.submit("use_judges", list(self._judges.handles))


def start_feedback(
    config: Config, runtime: Runtime, resources: Mapping[str, RoleResources], file: Path, *, resuming: bool = False
) -> Feedback | None:
    """Starts what ``feedback.judge`` asks for; None without a judge.

    Raises `ConfigError` for a template, goal or key that is not there, and for a server that cannot judge: a run that begins should
    not find out an hour later. One that is ``resuming`` goes on with the labels that it has.
    """
    if config.feedback.judge == "none":
        return None
    preflight.require(config)
    if config.feedback.judge == "http" and not resuming:
        from rayrl.feedback import probe

        probe.require(config.feedback)
    start_s, judges, handles = config.deadlines.start_s, None, []
    if config.feedback.judge == "vllm":
        role = resources["judge"]
        specs = [
            RoleSpec(
                f"judge-{i}",
                build_judge,
                {"config": config},
                cpus=role.cpus,
                gpus=role.gpus,
                bundle=role.bundles[i] if role.bundles else None,
                threads=role.threads,
                cores=role.cores[i] if role.cores else (),
                concurrency=2 * config.feedback.concurrency + 8,
                trace=False,
            )
            for i in range(role.count)
        ]
        handles = runtime.start(specs, start_s)
        judges = Pool(runtime, specs, handles, start_s=start_s, restarts=_RESTARTS)
    name = config.feedback.api_key_env
    spec = RoleSpec(
        ANNOTATOR,
        build_annotator,
        {"config": config, "file": file, "judges": handles},
        threads=1,
        env={name: os.environ[name]} if name and name in os.environ else {},
        concurrency=_CALLS,
        lasting=True,
        trace=False,
    )
    annotator = Pool(runtime, [spec], runtime.start([spec], start_s), start_s=start_s, restarts=_RESTARTS)
    return Feedback(annotator, judges, config.deadlines.call_s)


def recover_labels(file: Path, saved: Path, say: Callable[[str], None]) -> None:
    """Before a run goes on: its label file is a journal that is ahead of every commit; where it is lost or broken, the commit's copy is
    taken, and what was answered since is asked again."""
    if not saved.is_file() or is_whole(file):
        return
    say(f"{file.name} is {'broken' if file.exists() else 'gone'}: going on with the labels of {saved.parent.name}")
    for old in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
        old.unlink(missing_ok=True)
    shutil.copyfile(saved, file)


def build_annotator(config: Config, file: Path, judges: list[Any]) -> Any:
    from rayrl.feedback import templates
    from rayrl.feedback.annotator import Annotator
    from rayrl.feedback.replay import Replay
    from rayrl.feedback.store import LabelStore

    feedback, seed = config.feedback, config.run.seed
    store = LabelStore(file, feedback, templates.load(feedback.template), feedback.model, seed=seed)
    if feedback.judge == "replay":
        return Annotator(feedback, store, None, Replay(Path(feedback.replay or "")), seed=seed)
    if feedback.judge == "vllm":
        from rayrl.feedback.judges.engine import WorkersJudge

        return Annotator(feedback, store, WorkersJudge(judges, feedback.model, feedback.concurrency), seed=seed)
    from rayrl.feedback.judges.http import HttpJudge

    key = os.environ.get(feedback.api_key_env) if feedback.api_key_env else None
    return Annotator(feedback, store, HttpJudge(feedback.base_url, feedback.model, key, 2 * feedback.concurrency), seed=seed)


def build_judge(config: Config) -> Any:
    """The engine of rollout, with the judge's model."""
    from rayrl.data.tokenizer import load_tokenizer
    from rayrl.feedback.judges.engine import JudgeWorker, render_with
    from rayrl.rollout.select import build_engine

    feedback, engine = config.feedback, config.feedback.engine
    model = ModelConfig(
        path=feedback.model, dtype=engine.dtype, max_length=engine.max_length, trust_remote_code=config.model.trust_remote_code
    )
    rollout = RolloutConfig(
        engine=engine.engine,
        num_engines=engine.actors,
        tensor_parallel=engine.tensor_parallel,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        kv_cache_gib=engine.kv_cache_gib,
        max_running=2 * feedback.concurrency,
        cpu_threads=engine.cpu_threads,
    )
    built, reason = build_engine(model, rollout, seed=config.run.seed)
    print(f"judge {feedback.model}: {reason}", flush=True)
    tokenizer = load_tokenizer(model)
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
    return JudgeWorker(built, feedback.model, render_with(tokenizer), decode)
