"""One run: its roles, its ledger, its folder. `driver.loop` is the schedule, the verbs of that schedule are here.

    admit → (rollout, rewards) → collect → learn → finish → publish → confirm → …

State that must survive is small and lies in one place (`state`): step, weight version, prompt position, the buffer's ledger.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rayrl import assembly, checkpoint
from rayrl.config import loading
from rayrl.config.loading import Loaded
from rayrl.config.schema import Config
from rayrl.deadlines import Deadline
from rayrl.errors import RayrlError, RoleFailed, WeightSyncError
from rayrl.evaluation import held_out
from rayrl.recorder import Published, Recorder
from rayrl.run_folder import RunFolder
from rayrl.runtime.pool import Joint, gather
from rayrl.types import LearnBatch, PromptTask, SamplingParams, SyncReport, Trajectory, WeightUpdate

_POLL_S = 0.25
"""How long the driver stays in one wait before it looks after its workers."""


@dataclass
class Working:
    """A learner step under way, and the export of the weights that it makes."""

    batch: LearnBatch
    step: Joint
    weights: Joint
    collected_s: float
    """Seconds the driver waited for the batch."""
    started: float = field(default_factory=time.monotonic)
    metrics: dict[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    """Seconds the driver waited for the learner."""


class Run(AbstractContextManager):
    def __init__(self, loaded: Loaded, folder: RunFolder, state: dict[str, Any] | None, place: Path | None) -> None:
        self.config: Config = loaded.config
        self.folder = folder
        self.step = state["step"] if state else 0
        self.version = state["version"] if state else 0
        self.interrupted = False
        self._saved_at = self.step if state else -1
        self._evaluated_at = state["evaluated_at"] if state else -1
        self._restored, self._place = state, place
        self._update: WeightUpdate | None = None
        self._canary: tuple[str, np.ndarray] | None = None
        self._recorder = Recorder(loaded, folder, state)

    @classmethod
    def start(cls, loaded: Loaded) -> Run:
        folder = RunFolder.create(loaded.config.run.dir, fresh=True)
        loading.save(loaded, folder.path)
        return cls(loaded, folder, None, None)

    @classmethod
    def resume(cls, run_dir: Path, loaded: Loaded) -> Run:
        folder = RunFolder.create(run_dir, fresh=False)
        place = checkpoint.latest(folder)
        return cls(loaded, folder, checkpoint.read_state(place), place)

    # ---- begin and end ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _start(self) -> None:
        config, say = self.config, self._recorder.say
        self._roles: assembly.Roles | None = None
        self._runtime = None
        say("loading prompts")
        tokenizer, self._prompts, self._held_out = assembly.load_prompts(config)
        self._canary_ids = np.asarray(
            self._held_out[0].token_ids[:64] if self._held_out else self._prompts.take(1)[0].token_ids[:64], np.int32
        )
        self._prompts.seek(0)
        say("starting Ray")
        self._runtime, resources = assembly.start_runtime(config, self.folder.logs)
        say("starting " + ", ".join(f"{r.count} {r.name}" for r in resources.values()))
        self._roles = assembly.start_roles(config, self._runtime, resources, self.folder.rollouts if config.telemetry.rollouts else None)
        self._roles.rollout.on_back = self._bring_up_to_date
        if self._restored:
            self._restore()
        self._roles.rollout.run()
        self._roles.scorers.run()
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if _main_thread() else {}
        self._recorder.begin(self._roles)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in getattr(self, "_handlers", {}).items():
            signal.signal(number, handler)
        if isinstance(error, Exception):
            self.folder.write_json(self.folder.crash, _crash(error, self.step))
        try:
            if self._roles is not None and error is None:
                self._recorder.settle(self._roles, self.config.deadlines.drain_s)
                self._roles.buffer.drain()
                self._roles.stop(self.config.deadlines.drain_s)
        finally:
            if self._runtime is not None:
                self._runtime.shutdown()
            self._recorder.close()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self._recorder.say(f"{signal.Signals(number).name}: finishing this step and saving; once more to leave at once")

    # ---- questions the schedule asks ------------------------------------------------------------------------------------

    @property
    def target(self) -> int:
        return self.config.run.steps

    @property
    def wants_more(self) -> bool:
        return self.step < self.target and not self.interrupted

    @property
    def asynchronous(self) -> bool:
        return self.config.buffer.max_staleness > 0

    # ---- prompts and batches ----------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Admits as many prompts as pacing allows.

        Synchronous runs admit in rounds, each when nothing is under way any more: so batch composition in the engine, and with
        it every sampled token, does not depend on timing.
        """
        groups, bound = self.config.batch.groups_per_step, self.config.buffer.max_staleness
        outstanding = self._roles.buffer.outstanding()
        ahead = min(bound + 1, self.target - self.step)  # nothing is generated that no step will train on
        room = ahead * groups - outstanding["live"]
        busy = outstanding["queued"] + outstanding["in_flight"] + outstanding["unscored"]
        if room <= 0 or (not self.asynchronous and busy):
            return
        if not self.asynchronous:
            self._roles.rollout.call("reseed", _seed(self.config.run.seed, self._prompts.position), timeout_s=self.config.deadlines.call_s)
        self._roles.buffer.admit(self._tasks(room))

    def collect(self) -> tuple[LearnBatch, float]:
        """Waits for the batch of the next step."""
        found = self._collect(self.step, self.version, None)
        assert found is not None
        return found

    def collect_beside(self, working: Working) -> tuple[LearnBatch, float] | None:
        """Gathers the batch after ``working`` until the learner is done; None when it was not complete by then, or is not wanted yet."""
        following = self.step + 1
        if not self.asynchronous or following >= self.target or self.interrupted or self._due(following):
            return None
        return self._collect(following, self.version + 1, working)

    def _collect(self, step: int, version: int, beside: Working | None) -> tuple[LearnBatch, float] | None:
        started, deadlines = time.monotonic(), self.config.deadlines
        waiting, seen = Deadline("generate_s", "driver", "rollouts and their rewards", deadlines.generate_s), -1
        while True:
            self.admit()
            batch = self._roles.buffer.sample(step, version, wait_s=_POLL_S)
            if batch is not None:
                return batch, time.monotonic() - started
            if beside is not None and beside.step.done():
                return None
            self._look_after_workers()
            progress = self._roles.buffer.wait_for_progress(seen, wait_s=0.0)
            if progress != seen:
                waiting, seen = Deadline("generate_s", "driver", "rollouts and their rewards", deadlines.generate_s), progress
            waiting.check()

    def _tasks(self, count: int) -> list[PromptTask]:
        s = self.config.rollout.sampling
        sampling = SamplingParams(s.max_tokens, s.temperature, s.top_p, s.top_k, s.min_p, tuple(s.stop), ignore_eos=s.ignore_eos)
        limits = self._limits()
        n = self.config.batch.group_size
        return [
            PromptTask(p, n, sampling, max_tokens=tuple(limits[p.ordinal % len(limits)][:n]) if limits else None)
            for p in self._prompts.take(count)
        ]

    def _limits(self) -> list[list[int]]:
        path = self.config.rollout.length_limits
        if path is None:
            return []
        if not hasattr(self, "_length_limits"):
            self._length_limits = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
        return self._length_limits

    # ---- learning -------------------------------------------------------------------------------------------------------------

    def learn(self, collected: tuple[LearnBatch, float]) -> Working:
        """Hands a batch to the learner, and asks for the weights that come out of it."""
        batch, waited = collected
        reference = self._reference(batch)
        return Working(batch, self._roles.learner.submit("step", batch, reference), self.export(batch.version + 1), waited)

    def finish(self, working: Working) -> None:
        """Waits for the learner."""
        started = time.monotonic()
        working.metrics = dict(working.step.result(self.config.deadlines.learn_s))
        working.waited_s = time.monotonic() - started

    def confirm(self, working: Working) -> None:
        """The step counts from here: its ordinals are trained, its numbers are written."""
        self._roles.buffer.confirm_trained(working.batch.step, working.batch.ordinals)
        self.step += 1
        self._recorder.step(self.step, working, self._roles, self._published)

    def _reference(self, batch: LearnBatch) -> list[Any] | None:
        """One reference payload per group; computed while the learner fetches and plans."""
        actors = self._roles.reference
        if not actors:
            return None
        infos = [g.info for g in batch.groups]
        shares = [infos[i :: len(actors)] for i in range(len(actors))]
        parts = gather([a.submit("logprobs", share) for a, share in zip(actors, shares, strict=True)], self.config.deadlines.learn_s)
        payloads: list[Any] = [None] * len(infos)
        for i, part in enumerate(parts):
            payloads[i :: len(actors)] = part
        return payloads

    # ---- weights ----------------------------------------------------------------------------------------------------------------

    def export(self, version: int | None = None) -> Joint:
        canary = self._canary_ids if self.config.sync.canary else None
        return self._roles.learner.submit("export_weights", self.version if version is None else version, canary)

    def publish(self, weights: Joint) -> None:
        """Every engine loads the new weights and proves it; only then do they count as published."""
        deadlines, started = self.config.deadlines, time.monotonic()
        update: WeightUpdate = weights.result(deadlines.learn_s)
        self._update = update
        reports: list[SyncReport] = []
        for handle, pending in [(h, h.submit("update_weights", update)) for h in list(self._roles.rollout.handles)]:
            try:
                reports.append(pending.result(deadlines.sync_s))
            except RoleFailed:
                if handle in self._roles.rollout.handles:  # its replacement gets these weights before it starts
                    self._look_after_workers()
        self._verify(update, reports)
        self.version = update.manifest.version
        self._roles.buffer.set_version(self.version)
        self._published = Published(reports, update.manifest.nbytes, time.monotonic() - started)

    def _verify(self, update: WeightUpdate, reports: Sequence[SyncReport]) -> None:
        for report in reports:
            if report.digest != update.manifest.digest or report.version != update.manifest.version:
                raise WeightSyncError(
                    f"an engine holds version {report.version} ({report.digest}) after version {update.manifest.version} "
                    f"({update.manifest.digest}) was sent",
                    "the transport lost or changed bytes; look at logs/rollout-*.log",
                )
            if report.canary_gap is not None and report.canary_gap > self.config.sync.canary_tolerance:
                raise WeightSyncError(
                    f"engine and learner disagree on the canary prompt by {report.canary_gap:.4f} nats (sync.canary_tolerance "
                    f"{self.config.sync.canary_tolerance:g}) at version {report.version}",
                    "the engine does not compute with the learner's weights; in low precision raise the tolerance, else run in float32 to compare",
                )
        if reports and reports[0].canary_logprobs is not None:
            digest, moved = update.manifest.digest, reports[0].canary_logprobs
            if self._canary and self._canary[0] != digest and self._update_is_visible(update) and np.array_equal(self._canary[1], moved):
                raise WeightSyncError(
                    "the weights changed but the engine's canary log-probs did not", "the update reached no layer of the engine"
                )
            self._canary = (digest, moved)

    def _update_is_visible(self, update: WeightUpdate) -> bool:
        """Whether the learner's own canary log-probs moved: a step below the resolution of the dtype moves neither side."""
        before, now = getattr(self, "_learner_canary", None), update.canary_logprobs
        self._learner_canary = now
        return before is not None and now is not None and not np.allclose(before, now, atol=1e-3)

    def _bring_up_to_date(self, handle: Any) -> None:
        """A replaced engine starts with the newest weights that were published."""
        if self._update is not None:
            self._verify(self._update, [handle.submit("update_weights", self._update).result(self.config.deadlines.sync_s)])

    # ---- evaluation and saving ------------------------------------------------------------------------------------------------------

    def _due(self, step: int) -> bool:
        every, saves = self.config.evaluation.every, self.config.checkpoint.every
        return bool((saves and step % saves == 0) or (self.config.evaluation.enabled and every and step % every == 0))

    def evaluate_if_due(self) -> None:
        every = self.config.evaluation.every
        if self.step == 0 or (every and self.step % every == 0 and self.step < self.target):
            self.evaluate()

    def evaluate(self) -> None:
        """Accuracy on held-out prompts under the published weights."""
        if not (self.config.evaluation.enabled and self._held_out) or self._evaluated_at == self.step:
            return
        tasks, engines, limit = held_out.tasks(self.config, self._held_out), self._roles.rollout.handles, self.config.deadlines.generate_s
        shares = [tasks[i :: len(engines)] for i in range(len(engines))]
        parts = gather(
            [e.submit("rollout", share, limit) for e, share in zip(engines, shares, strict=True)], limit + self.config.deadlines.call_s
        )
        trajectories: list[Trajectory] = sorted((t for part in parts for t in part), key=lambda t: (t.ordinal, t.sample))
        result = held_out.evaluate(self.config, self.step, trajectories, lambda ts: self._roles.scorers.handles[0].submit("score", ts).result(limit))
        self._evaluated_at = self.step
        self._recorder.evaluation(result)

    def commit_if_due(self) -> None:
        if self.config.checkpoint.every and self.step % self.config.checkpoint.every == 0 and self.step < self.target:
            self.commit()

    def commit(self) -> None:
        """Saves everything that is needed to continue; between two steps, so that learner and ledger agree."""
        if self._saved_at == self.step:
            return
        limit = self.config.deadlines.save_s
        state = {
            "step": self.step,
            "version": self.version,
            "evaluated_at": self._evaluated_at,
            "position": self._prompts.position,
            "buffer": self._roles.buffer.snapshot(),
        } | self._recorder.state()
        place = checkpoint.commit(
            self.folder,
            self.step,
            state,
            lambda path: self._roles.learner.call("save", path, timeout_s=limit),
            keep=self.config.checkpoint.keep,
        )
        self._saved_at = self.step
        self._recorder.saved(place)

    def _restore(self) -> None:
        from rayrl.buffer.snapshot import pending_ordinals

        self._roles.learner.call("load", self._place / checkpoint.LEARNER, timeout_s=self.config.deadlines.save_s)
        tasks = []
        for ordinal in pending_ordinals(self._restored["buffer"]):
            self._prompts.seek(ordinal)
            tasks += self._tasks(1)
        self._prompts.seek(self._restored["position"])
        self._roles.buffer.restore(self._restored["buffer"], tasks)

    def export_policy(self) -> None:
        if self.config.checkpoint.export:
            self._roles.learner.call("save_pretrained", self.folder.policy, timeout_s=self.config.deadlines.save_s)

    # ---- supervision -------------------------------------------------------------------------------------------------------------------

    def _look_after_workers(self) -> None:
        self._roles.rollout.check()
        self._roles.scorers.check()


def _seed(seed: int, position: int) -> int:
    """Seed of the engines' generators for the prompts from ``position`` on: a function of the run's seed alone, also after a resume."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _crash(error: Exception, step: int) -> dict[str, Any]:
    known = isinstance(error, RayrlError)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "error": type(error).__name__,
        "message": error.message if known else str(error),
        "hint": error.hint if known else "",
    }
