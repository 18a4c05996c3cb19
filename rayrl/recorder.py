"""What a run leaves behind while it goes: metrics to every sink, trajectories to Parquet, a line per step to the terminal.

Nothing here decides anything: a run with its recorder switched off trains the same policy.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from rayrl.assembly import load_view
from rayrl.committing import Done
from rayrl.config.loading import Loaded
from rayrl.errors import BufferLost, RoleDied, RoleFailed
from rayrl.publishing import Published
from rayrl.run_folder import RunFolder
from rayrl.runtime import life
from rayrl.runtime.pool import gather
from rayrl.telemetry import fragments
from rayrl.telemetry.console import Console
from rayrl.telemetry.events import EventLog, Heartbeat
from rayrl.telemetry.files import storage_errors
from rayrl.telemetry.fragments import FragmentWriter
from rayrl.telemetry.jsonl import JsonlSink
from rayrl.telemetry.metrics import MetricsWriter
from rayrl.telemetry.perfetto import TraceFile
from rayrl.telemetry.process import resident_bytes
from rayrl.telemetry.spans import SpanRecorder
from rayrl.views import table_row
from rayrl.workload import Exam

if TYPE_CHECKING:
    from rayrl.assembly import Roles
    from rayrl.working import Working

T = TypeVar("T")


def traced(method: Callable[..., T]) -> Callable[..., T]:
    """A method of the run whose time shows in the timeline of the driver, under its name."""

    @wraps(method)
    def timed(run: Any, *args: Any, **kwargs: Any) -> T:
        with run.recorder.spans.span(method.__name__):
            return method(run, *args, **kwargs)

    return timed


class Recorder:
    def __init__(self, loaded: Loaded, folder: RunFolder, state: Mapping[str, Any] | None) -> None:
        """``state`` is what `state` returned when the commit was made that the run continues from."""
        self._config, self._folder = loaded.config, folder
        self._view = load_view(loaded.config)
        self._console = Console(columns=self._view.columns)
        self._history: dict[str, Any] = state["recorder"] if state else {"evaluations": [], "wandb_id": None}
        telemetry = loaded.config.telemetry
        sinks: list[Any] = [JsonlSink(folder.metrics)]
        self._tracker: Any = None
        if telemetry.wandb != "off":
            from rayrl.telemetry.wandb_sink import WandbSink

            self._tracker = WandbSink(telemetry, loaded.config.run.name, folder.path, loaded.yaml, run_id=self._history["wandb_id"])
            self._history["wandb_id"] = self._tracker.run_id
            sinks.append(self._tracker)
        if telemetry.tensorboard:
            from rayrl.telemetry.tensorboard_sink import TensorboardSink

            sinks.append(TensorboardSink(folder.tensorboard))
        self._metrics = MetricsWriter(sinks)
        self._trace = TraceFile(folder.spans) if telemetry.spans else None
        self.spans = SpanRecorder("driver", enabled=telemetry.spans)
        self._events = EventLog(folder.events)
        self._step = int(state["step"]) if state else 0
        self._heart = Heartbeat(
            folder.status, {"run": loaded.config.run.name, "recipe": loaded.recipe, "step": self._step, "target": loaded.config.run.steps}
        )
        self._event("resumed" if state else "began", f"{'from step ' + str(self._step) if state else loaded.recipe}")
        self._sums: dict[str, float] = {}
        self._problem, self._pressed = "", False
        self._archived: dict[str, float] = {}
        self._saving: dict[str, float] = {}
        self._archiving: tuple[Any, ...] = ()
        """What the archive was last asked to write: asked again when it dies meanwhile."""
        self._written: list[Any] = []
        self._buffered: dict[str, float] = {}
        self._looked: dict[str, float] = {}
        self._looked_at = float("-inf")
        self._clock = time.monotonic()
        self._console.header(loaded.config.run.name, self._view.facts(loaded))

    def keeps(self, step: int) -> bool:
        """Whether the archive writes something of this step: always of a language model, now and then of an environment agent."""
        return self._config.agent.env is None or fragments.keeps(step)

    # ---- while the run goes -----------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self._console.say(text)

    def begin(self, roles: Roles) -> None:
        """The first step starts now."""
        for pool in roles.pools():
            pool.on_replaced = self._replaced
        self._clock = time.monotonic()
        self._activity(roles)
        self._event("training", "all roles are ready")
        self._heart.update(state="running")

    def step(self, step: int, working: Working, roles: Roles, published: Published) -> int:
        """One finished step: numbers to the sinks, a line to the terminal, trajectories to the archive. Returns the tokens sampled."""
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        activity = self._activity(roles)
        numbers = (
            working.metrics
            | working.handed_over
            | self._view.batch(working.batch)
            | activity
            | self._archived
            | self._saving
            | _sync_metrics(published)
            | {
                "step/total_s": seconds,
                "step/tokens_per_s": working.batch.num_action_tokens / seconds,
                "step/generate_wait_s": working.collected_s,
                "step/learn_s": working.waited_s,
                "step/sync_s": published.seconds,
            }
        )
        self._step = step
        self._metrics.write(step, numbers)
        self._heart.update(step=step)
        self._archive(roles, working, step)
        self._draw(roles)
        self._console.step(table_row(self._view, step, self._config.run.steps, numbers))
        return int(activity["rollout/tokens"])

    def evaluation(self, result: Exam) -> None:
        found = result.to_json()
        self._metrics.write(result.step, result.metrics())
        with storage_errors(self._folder.evaluations), self._folder.evaluations.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        self._history["evaluations"].append({**found, "samples": found["samples"][: self._config.telemetry.print_samples]})
        if self._tracker and found["samples"]:
            columns = list(found["samples"][0])
            rows = [[sample.get(key) for key in columns] for sample in found["samples"]]
            self._tracker.table("samples/held_out", result.step, columns, rows)
        self._view.examined(self._console, found)
        self._clock = time.monotonic()

    def stuck(self, edge: str) -> None:
        """A wait that is worth a word; called by the watchdog."""
        self._console.say(edge)
        self._event("stuck", edge)

    def watched(self, step: int, version: int, episode: pa.RecordBatch, intrinsic: np.ndarray) -> None:
        """An episode to look at, and what its frames would have earned."""
        FragmentWriter(self._folder.episodes).write(step, version, episode, {"intrinsic": intrinsic.reshape(-1)})
        self._clock = time.monotonic()

    def pressed(self, high: bool, text: str) -> None:
        """Memory runs short, or does no longer."""
        self._pressed = high
        self._console.say(text)
        self._event("memory", text)

    def moved(self, text: str) -> None:
        """A rollout worker joined or left."""
        self._console.say(text)
        self._event("moved", text)

    def _replaced(self, name: str, failure: RoleFailed) -> None:
        """A worker died, and another took its place."""
        self._event("replaced", f"{name}: {failure.message}")
        self._console.say(f"{name} was replaced: {failure.message}")

    def recovered(self, failure: RoleFailed, place: str, step: int) -> None:
        """The learner or the buffer died, and another goes on from a commit, or from the journal."""
        self._event("recovered", f"{failure.message}; on from {place}")
        self._console.say(f"{failure.message}: on from {place}, after step {step}")
        self._clock = time.monotonic()

    def saved(self, done: Done) -> None:
        """A commit ended, well or not: a run goes on without one, as long as it can."""
        self._saving = done.metrics
        if done.place is not None:
            self._event("saved", str(done.place))
            self._console.say(f"saved {done.place}")
        else:
            self._event("not_saved", f"step {done.step}: {done.problem}")
            self._console.say(f"step {done.step} could not be saved, the commits before it are good: {done.problem}")

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same curves; JSON-able."""
        return {"recorder": self._history}

    # ---- at the end ---------------------------------------------------------------------------------------------------------

    def settle(self, roles: Roles, timeout_s: float) -> None:
        """Waits for what is still being written."""
        self._settle_archive(roles, timeout_s)
        self._draw(roles)

    def close(self, error: BaseException | None, *, reached: bool) -> None:
        """``error``: what ended the run before its time; ``reached``: it has done the steps, or spent the tokens, that it was given."""
        outcome = "finished" if error is None and reached else "failed" if isinstance(error, Exception) else "interrupted"
        self._event(outcome, f"at step {self._step} of {self._config.run.steps}")
        self._heart.close(outcome)
        if self._trace:
            self._trace.close()
        if self._config.telemetry.report and self._step:
            self._report()
        self._metrics.close()

    def _report(self) -> None:
        """The run as a page, and a table of trajectories for the tracker. Whatever fails here must not become the failure of the run."""
        from rayrl.report.page import write
        from rayrl.report.table import COLUMNS, sample_rows

        try:
            write([self._folder.path], self._folder.report)
            if self._tracker:
                self._tracker.table("samples/trained", self._step, COLUMNS, sample_rows(self._folder.rollouts))
                self._tracker.attach(self._folder.report)
        except Exception as error:
            self._console.say(f"no report: {error} (`rayrl report {self._folder.path}` tries again)")
        else:
            self._console.say(f"report: {self._folder.report}")

    def summary(self) -> None:
        """Before and after, a few generations of both, and where everything lies."""
        done = self._history["evaluations"]
        if len(done) >= 2:
            self._view.summary(self._console, done[0], done[-1])
        path = self._folder.path
        self._console.facts(
            {
                "metrics": str(self._folder.metrics),
                "trajectories": f"{self._folder.rollouts if self._config.agent.env is None else self._folder.fragments}/*.parquet",
                "timeline": f"{self._folder.spans} (open in ui.perfetto.dev)",
                "policy": str(self._folder.policy) if self._config.checkpoint.export else "not exported (checkpoint.export=false)",
                "wandb": f"wandb sync {path}/wandb/offline-run-*"
                if self._config.telemetry.wandb == "offline"
                else self._config.telemetry.wandb,
            }
        )

    # ---- inside -------------------------------------------------------------------------------------------------------------

    def _activity(self, roles: Roles) -> dict[str, float]:
        """Counters of all roles since the last call, and their gauges."""
        limit = self._config.deadlines.call_s
        engines = roles.rollout.observe("stats", limit)
        scorers = [*roles.scorers.observe("stats", limit), *roles.sources.stats(limit)]
        learners = roles.learner.observe("stats").results(limit)
        passing = roles.inference.observe("stats", limit) if roles.inference else []
        memory = {"rollout": engines, "scorer": scorers, "learner": learners} | ({"inference": passing} if passing else {})
        sums = {
            "rollout/busy_s": sum(s["busy_s"] for s in engines),
            "rollout/wait_s": sum(s["wait_s"] for s in engines),
            "rollout/tokens": sum(s["tokens"] for s in engines),
            "rollout/engine_steps": sum(s["engine_steps"] for s in engines),
            "rewards/busy_s": sum(s["busy_s"] for s in scorers),
            "rewards/wait_s": sum(s["waited_s"] for s in scorers),
            "rewards/failed_count": sum(s["failed"] for s in scorers),
            "learner/busy_s": learners[0]["busy_s"],
            "step/driver_cpu_s": time.process_time(),
        } | {f"inference/{name}": sum(s[name] for s in passing) for name in ("busy_s", "passes", "steps") if passing}
        # A replaced worker counts from zero: what it did this step is then told too small, never negative.
        deltas = {name: max(0.0, value - self._sums.get(name, 0.0)) for name, value in sums.items()}
        self._sums = sums
        return (
            deltas
            | self._buffer(roles)
            | self._feedback(roles)
            | roles.sources.metrics()
            | {"rollout/workers_count": float(len(engines))}
            | {f"memory/{role}_bytes": max((s["rss_bytes"] for s in all), default=0.0) for role, all in memory.items()}
            | self._machines(roles)
            | {"store/pressure_bool": float(self._pressed)}
            | {"memory/driver_bytes": float(resident_bytes())}
        )

    def _machines(self, roles: Roles) -> dict[str, float]:
        """Memory of the object store and of the roles' processes, looked at once a second: nobody tells it more often."""
        if time.monotonic() - self._looked_at >= life.BEAT_S:
            usage, self._looked_at = roles.runtime.usage(), time.monotonic()
            self._looked = {"store/used_bytes": usage["used"], "store/fullest_share": usage["fullest"]} | _memory(self._folder.logs)
        return self._looked

    def _buffer(self, roles: Roles) -> dict[str, float]:
        """Its counters; the last ones known when it just died, which the next call on it will find out."""
        with suppress(BufferLost):
            self._buffered = dict(roles.buffer.stats()) | {"buffer/restarts_count": float(roles.buffer.restarts)}
        return self._buffered

    def _feedback(self, roles: Roles) -> dict[str, float]:
        """Numbers of the annotator; what keeps it from asking is said once."""
        if roles.feedback is None:
            return {}
        problem = roles.feedback.problem()
        if problem != self._problem:
            self._problem = problem
            self._console.say(f"feedback: {problem}" if problem else "feedback: the judge answers again")
        return roles.feedback.stats()

    def _archive(self, roles: Roles, working: Working, step: int) -> None:
        if roles.archive is None or not self.keeps(step):
            return
        limit = self._config.deadlines.call_s
        self._settle_archive(roles, limit)  # of the step before: long done, unless the disk is full
        records = working.token_records.results(limit) if working.token_records else []
        self._archiving = (step, working.batch, records)
        self._written = roles.archive.submit("write", *self._archiving)

    def _settle_archive(self, roles: Roles, timeout_s: float) -> None:
        while self._written:
            try:
                (self._archived,) = (dict(found) for found in gather(self._written, timeout_s))
                self._written = []
            except RoleDied:
                roles.archive.settle(timeout_s)  # raises when it keeps dying
                self._written = roles.archive.submit("write", *self._archiving)

    def _event(self, kind: str, text: str) -> None:
        self._events.write(kind, text, self._step)

    def _draw(self, roles: Roles) -> None:
        if self._trace:
            self._trace.append({"driver": self.spans.drain()} | roles.spans(self._config.deadlines.call_s))


def _memory(logs: Path) -> dict[str, float]:
    """``memory/<role>_bytes`` with all processes of the role, the largest where there are several."""
    found: dict[str, float] = {}
    for sign in life.read(logs):
        name = f"memory/{re.sub(r'[^a-z_]+', '_', re.sub(r'-[0-9]+$', '', sign.role))}_bytes"
        found[name] = max(found.get(name, 0.0), float(sign.facts["rss_bytes"]))
    return found


def _sync_metrics(published: Published) -> dict[str, float]:
    version, reports, nbytes, seconds = published
    numbers = {"sync/total_s": seconds, "sync/bytes": float(nbytes), "sync/bytes_per_s": nbytes / max(seconds, 1e-9)}
    if reports:
        numbers |= {"sync/paused_s": max(r.paused_s for r in reports), "sync/version": float(version)}
        gaps = [r.canary_gap for r in reports if r.canary_gap is not None]
        numbers |= {"sync/canary_gap_nats": max(gaps)} if gaps else {}
    return numbers
