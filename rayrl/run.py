"""One run: its roles, its ledger, its folder. `driver.loop` is the schedule, the verbs of that schedule are here.

    admit → (rollout, rewards) → collect → learn → finish → publish → confirm → …

What must survive is small: step, weight version, prompt position, the buffer's ledger, the recorder's history.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rayrl import assembly, checkpoint, committing
from rayrl.buffer.snapshot import pending_ordinals
from rayrl.collecting import Collected, Collector, seed_of
from rayrl.committing import Committer, Done
from rayrl.config import loading
from rayrl.config.loading import Loaded
from rayrl.config.reward_sources import main_component
from rayrl.deadlines import Watchdog
from rayrl.errors import PayloadLost, RanksLost, RayrlError, RoleFailed, StorageError
from rayrl.evaluation.episodes import EpisodeExam
from rayrl.feedback_roles import recover_labels
from rayrl.pressure import Pressure
from rayrl.publishing import Publisher
from rayrl.recorder import Recorder, traced
from rayrl.run_folder import RunFolder
from rayrl.runtime import life
from rayrl.runtime.pool import Joint
from rayrl.types import PromptTask
from rayrl.working import Working


class Run(AbstractContextManager["Run"]):
    """Entering starts the roles; leaving ends them, and writes ``crash.json`` when something went wrong."""

    def __init__(self, loaded: Loaded, folder: RunFolder, place: Path | None) -> None:
        """``place``: the commit to continue from; None begins."""
        saved = checkpoint.read_state(place) if place else None
        self.config, self.folder = loaded.config, folder
        self.step = saved["step"] if saved else 0
        self.version = saved["version"] if saved else 0
        self.tokens = saved["tokens"] if saved else 0
        """Sampled by all engines."""
        self.interrupted = self.preempted = False
        self._saved, self._place = saved, place
        self._unfilled = saved
        """The commit whose ledger and groups the buffer is still to be given."""
        self._saved_at = self.step if saved else -1
        self._reserved_at = self.step
        """The step of the newest commit that was begun."""
        self._evaluated_at = saved["evaluated_at"] if saved else -1
        self.recoveries = 0
        """Since the last step that counted."""
        self.owed: Path | None = None
        """The commit that a new learner went back to, while not everybody knows it yet."""
        self._mark: dict[str, Any] | None = None
        """Synchronous runs: the ledger before the prompts of the step under way were admitted."""
        self._runtime, self.roles, self._committer = None, None, None
        self.under_way: list[Working] = []
        """Batches that were given to the learner and do not count yet, oldest first."""
        self._handlers: dict[int, Any] = {}
        self.recorder = Recorder(loaded, folder, saved)
        self._watchdog = Watchdog(self.recorder.stuck)

    @classmethod
    def start(cls, loaded: Loaded) -> Run:
        folder = RunFolder.create(loaded.config.run.dir, fresh=True)
        loading.save(loaded, folder.path)
        return cls(loaded, folder, None)

    @classmethod
    def resume(cls, run_dir: Path, loaded: Loaded) -> Run:
        """From the newest good commit; one that was killed before its first commit begins anew."""
        folder = RunFolder.create(run_dir, fresh=False)
        begins = loaded.config.checkpoint.every and not checkpoint.commits(folder)
        return cls(loaded, folder, None if begins else checkpoint.latest(folder))

    # ---- begin and end ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _start(self) -> None:
        config, say = self.config, self.recorder.say
        self.work = assembly.load_workload(config, say)
        canary = self.work.canary if config.sync.canary else None
        if config.placement.runtime == "ray":
            say("starting Ray")
        self._runtime, resources, self._mode = assembly.start_runtime(config, self.folder.logs)
        say("starting " + ", ".join(f"{r.count} {r.name}" for r in resources.values()))
        if self._place:
            recover_labels(self.folder.feedback, self._place / committing.LABELS, say)
        places = (self.folder.rollouts if config.telemetry.rollouts else None, self.folder.feedback, self.folder.reward_models)
        self.folder.journal.unlink(missing_ok=True)  # of an earlier start: what counts by now is in the commit
        self.roles = assembly.start_roles(
            config, self._runtime, resources, self._mode, *places, self.folder.journal, resuming=bool(self._saved)
        )
        assembly.let_come_and_go(config, self.roles, resources, self.recorder.moved)
        self._publisher = Publisher(config, self.roles, self._mode, canary)
        shares = {"object store": lambda: self._runtime.usage()["fullest"], "replay buffer": lambda: self.roles.buffer.fullness()}
        self._pressure = Pressure(shares, self.recorder.pressed)
        self.anew()
        self._committer = Committer(self.folder, self.roles, keep=config.checkpoint.keep, save_s=config.deadlines.save_s)
        if self._saved:
            self._restore()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        self.roles.run()
        if self._saved:
            self.work.go_on(self.roles.rollout, self._saved.get("engines", {}))
        if self._saved and self.asynchronous:  # else every round of prompts does it
            seed = seed_of(config.run.seed, self._saved["position"])
            self.roles.rollout.call("reseed", seed, timeout_s=config.deadlines.call_s)
        self._publisher.connect()
        self.recorder.begin(self.roles)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            if error is None:
                self.recorder.settle(self.roles, self.config.deadlines.drain_s)
                self.roles.buffer.drain()
                self.roles.stop(self.config.deadlines.drain_s)
            elif isinstance(error, Exception):
                self._let_commit_end()
                self._crashed(error)
        finally:
            if self._runtime is not None:
                self._runtime.shutdown()
            self._watchdog.close()
            self.recorder.close(error, reached=self.step >= self.target or self.spent)

    def _let_commit_end(self) -> None:
        """The run has failed; what it was saving is still worth having."""
        if self._committer is not None:
            with suppress(RayrlError):
                self._note(self._committer.settle())

    def _crashed(self, error: Exception) -> None:
        """Writes ``crash.json``; the error itself tells, last of all, who failed first."""
        sign = life.first_failure(self.folder.logs)
        first = sign.to_json(str(error)) if sign else None
        self.folder.write_crash(error, self.step, first)
        if isinstance(error, RayrlError):
            error.crash = str(self.folder.crash)
            error.first = f"{first['role']} on {first['node']} (pid {first['pid']}), {first['at']}: {first['cause']}" if first else ""

    def _on_signal(self, number: int, frame: Any) -> None:
        """Ctrl-C twice leaves at once. SIGTERM never does: who wants the machine back may send it often, and ends with SIGKILL."""
        if self.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        told = self.interrupted
        self.interrupted, self.preempted = True, self.preempted or number == signal.SIGTERM
        if not told:
            self.recorder.say(f"{signal.Signals(number).name}: saving; Ctrl-C leaves at once")

    # ---- questions the schedule asks ------------------------------------------------------------------------------------

    @property
    def target(self) -> int:
        return self.config.run.steps

    @property
    def wants_more(self) -> bool:
        return self.step < self.target and not self.spent and not self.interrupted

    @property
    def spent(self) -> bool:
        """The budget of sampled tokens is used up."""
        return 0 < self.config.run.tokens <= self.tokens

    @property
    def asynchronous(self) -> bool:
        return self.config.buffer.max_staleness > 0

    # ---- batches ------------------------------------------------------------------------------------------------------------

    @traced
    def collect(self) -> Collected | None:
        """Waits for the batch of the next step; None when somebody asks the run to stop meanwhile."""
        if not self.asynchronous:
            self._mark = self._ledger()
        return self._collector.collect(self.step, self.version, trained=self.step, until=lambda: self.interrupted)

    @traced
    def collect_beside(self, working: Working) -> Collected | None:
        """Gathers the batch after ``working`` until the learner is done; None when it was not complete by then, or is not wanted yet."""
        following = self.step + 1
        if not self.asynchronous or following >= self.target or self.spent or self.interrupted or self._examines_after(following):
            return None
        return self._collector.collect(following, self.version + 1, trained=self.step, until=working.step.done)

    # ---- learning -----------------------------------------------------------------------------------------------------------

    def learn(self, collected: Collected | None) -> Working | None:
        """Hands a batch to the learner, and asks for the weights that come out of it."""
        if collected is None:
            return None
        batch = collected.batch
        handed_over: dict[str, float] = {}
        if self._mode == "colocated":  # the engines hand their memory to the learner; it comes back with the new weights
            started = time.monotonic()
            freed = self.roles.rollout.call("sleep", timeout_s=self.config.deadlines.sync_s)
            handed_over = {"rollout/handed_over_bytes": float(sum(freed)), "step/hand_over_s": time.monotonic() - started}
        try:
            reference = collected.reference_logprobs(self.config.deadlines.learn_s)
        except PayloadLost as lost:
            self.roles.buffer.return_batch(batch.step)
            self.roles.buffer.requeue_lost(list(batch.ordinals))
            raise RanksLost(lost.message, lost.hint) from lost
        step = self.roles.learner.submit("step", batch, reference)
        working = Working(batch, step, self.export(batch.version + 1), collected.waited_s, handed_over=handed_over)
        self.under_way.append(working)
        if self.roles.archive is not None and self.recorder.keeps(batch.step + 1):
            working.token_records = self.roles.learner.submit("token_records")
        if self._saves_after(batch.step + 1):
            self._committer.reserve(batch.step + 1)
            self._reserved_at = batch.step + 1
        return working

    @traced
    def finish(self, working: Working) -> None:
        """Waits for the learner."""
        started = time.monotonic()
        working.metrics = dict(working.step.result(self.config.deadlines.learn_s))
        working.waited_s = time.monotonic() - started

    def confirm(self, working: Working, told: bool = False) -> None:
        """The step counts from here: its ordinals are trained, its numbers are written. ``told``: the buffer knows it already."""
        if not told:
            self._collector.confirmed(self.roles.buffer.confirm_trained(working.batch.step, working.batch.ordinals))
        self.under_way.remove(working)
        self.step += 1
        self._mark = None
        self.recoveries = 0
        self.tokens += self.recorder.step(self.step, working, self.roles, self._published)

    # ---- weights --------------------------------------------------------------------------------------------------------------

    def export(self, version: int | None = None) -> Joint:
        """Asks the learner for its weights as ``version`` (default: the present one)."""
        return self._publisher.export(self.version if version is None else version)

    @traced
    def publish(self, weights: Joint) -> None:
        """Every engine loads the new weights and proves it; only then do they count as published."""
        self._published = self._publisher.publish(weights)
        self.version = self._published.version
        if self._unfilled is not None:  # not before: engines would answer the prompts that wait with weights of the beginning
            self.refill_buffer(self._unfilled, self._place)
            self._unfilled = None

    # ---- evaluation and saving --------------------------------------------------------------------------------------------------

    def _examines_after(self, step: int) -> bool:
        every = self.config.evaluation.every
        return bool(self.config.evaluation.enabled and every and step % every == 0)

    def _saves_after(self, step: int) -> bool:
        """Whether a commit is due, and none is still being written: a slow disk puts commits off, not steps."""
        every = self.config.checkpoint.every
        due = every and step // every > self._reserved_at // every and step < self.target
        return bool(due and not self._committer.busy)

    def evaluate_if_due(self) -> None:
        every = self.config.evaluation.every
        if self.step == 0 or (every and self.step % every == 0):
            self.evaluate()

    @traced
    def evaluate(self) -> None:
        """The exam of the workload under the published weights."""
        if not (self.config.evaluation.enabled and self.work.has_exam) or self._evaluated_at == self.step:
            return
        limits = self.config.deadlines
        self.roles.rollout.wait_for_one()
        score = lambda trajectories: self.roles.scorer(main_component(self.config)).submit("score", trajectories).result(limits.generate_s)
        try:
            result = self.work.examine(self.step, self.roles.rollout.handles, score, limits.generate_s)
        except RoleFailed:
            self.roles.rollout.settle(limits.call_s)  # raises what really happened, unless the worker could be replaced
            result = self.work.examine(self.step, self.roles.rollout.handles, score, limits.generate_s)
        self.recorder.evaluation(result)
        if isinstance(result, EpisodeExam) and result.watched is not None:
            intrinsic = self.roles.learner.call("rate", result.watched, timeout_s=limits.learn_s)
            self.recorder.watched(self.step, self.version, result.watched, intrinsic)
        self._evaluated_at = self.step

    def commit_if_due(self) -> None:
        """Looks after the commit under way; begins one where the learner was asked for its state after this step."""
        self._note(self._committer.finished())
        if self._committer.reserved_for == self.step:
            self._committer.begin(self._state())

    @traced
    def commit(self) -> None:
        """Saves everything that is needed to continue, and waits for it. Raises `StorageError`."""
        if self._committer.reserved_for == self.step:
            self._committer.begin(self._state())
        self._note(self._committer.settle())
        if self._saved_at == self.step:
            return
        self._committer.reserve(self.step)
        self._committer.begin(self._state())
        done = self._committer.settle()
        self._note(done)
        if done is not None and done.place is None:
            raise StorageError(f"step {self.step} could not be saved: {done.problem}", f"free space, then: rayrl resume {self.folder.path}")

    def _note(self, done: Done | None) -> None:
        if done is not None:
            self.recorder.saved(done)
            self._saved_at = done.step if done.place is not None else self._saved_at

    def _state(self) -> dict[str, Any]:
        """The driver's part of a commit; between two steps, so that learner and ledger agree."""
        own = {"step": self.step, "version": self.version, "tokens": self.tokens, "evaluated_at": self._evaluated_at}
        return own | (self._mark or self._ledger()) | self.recorder.state()

    def _ledger(self) -> dict[str, Any]:
        """Where every prompt is, and what engines carry over to the next one."""
        carried = {} if self.asynchronous else self.work.under_way(self.roles.rollout)
        return {"position": self.work.position, "buffer": self.roles.buffer.snapshot(), "engines": carried}

    def _restore(self) -> None:
        self.roles.learner.call("load", self._place / checkpoint.LEARNER, timeout_s=self.config.deadlines.save_s)
        self.roles.sources.load(self._place, self.config.deadlines.save_s)

    def refill_buffer(self, saved: Mapping[str, Any], place: Path) -> None:
        tasks = self.tasks_of(pending_ordinals(saved["buffer"]))
        self.work.seek(saved["position"])
        groups = place / committing.GROUPS
        self.roles.buffer.restore(saved["buffer"], tasks, groups if groups.is_file() else None)

    def tasks_of(self, ordinals: Sequence[int]) -> list[PromptTask]:
        """Tasks that were handed out before; the position is where it was."""
        position, tasks = self.work.position, []
        for ordinal in ordinals:
            self.work.seek(ordinal)
            tasks += self.work.take(1)
        self.work.seek(position)
        return tasks

    def export_policy(self) -> None:
        """The policy as a Hugging Face checkpoint, and the last words of the run."""
        if self.config.checkpoint.export:
            self.roles.learner.call("save_pretrained", self.folder.policy, timeout_s=self.config.deadlines.save_s)
        self.recorder.summary()

    # ---- supervision ---------------------------------------------------------------------------------------------------------------

    @property
    def unfilled(self) -> bool:
        """Nothing was published yet in this life of the run."""
        return self._unfilled is not None

    @property
    def has_commit(self) -> bool:
        return bool(checkpoint.commits(self.folder) or self._committer.busy)

    def settle_commit(self) -> None:
        """Waits for the one that is being written."""
        self._note(self._committer.settle())

    def anew(self) -> None:
        """Batches are gathered from the beginning again."""
        self._reserved_at, self._mark = self.step, None
        self._collector = Collector(self.config, self.roles, self.work, self._pressure)

    def reconnect(self) -> None:
        """A new learner meets the engines."""
        self._publisher.connect()
