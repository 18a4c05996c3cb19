"""Where a run keeps what: one folder, plain files, readable while the run goes on.

config.yaml, config_origins.json   what runs, and where each value came from
metrics.jsonl                      one line per step
rollouts/*.parquet                 every trajectory that was trained on, and some of those that were not
fragments/*.parquet                of environment agents: one fragment of some steps
episodes/*.parquet                 of environment agents: an episode to look at, from each evaluation
evaluations.jsonl                  held-out accuracy with samples
events.jsonl, status.json          what happened and when; who runs it, and whether it is alive
report.html                        the run as a page to look at
checkpoints/step-NNNNNN/           atomic commits; `rayrl resume` continues from the newest good one: learner/, reward_models/,
                                   groups.arrows (what the buffer held), labels.sqlite, state.json (ledger, counters), manifest.json
policy/                            the trained policy as a Hugging Face checkpoint
feedback.sqlite                    every question that a judge was asked, its answer and its label
reward_models/NAME/                state of a reward model that is learned while the run goes on
buffer.journal                     what a replay buffer that died goes on from
spans.json                         who did what when (open in ui.perfetto.dev)
logs/<role>.log, crash.json        what every process said; the first failure
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrl.errors import RayrlError, StorageError
from rayrl.telemetry.files import replace_atomically, storage_errors


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @classmethod
    def create(cls, path: str | Path, *, fresh: bool) -> RunFolder:
        """Makes the folder and proves that it can be written. ``fresh`` refuses a folder that already holds a run."""
        folder = cls(Path(path).absolute())
        if fresh and folder.metrics.exists() and folder.metrics.stat().st_size:
            raise StorageError(
                f"{path} already holds a run", f"go on with `rayrl resume {path}`, or choose another name with run.name=NAME"
            )
        with storage_errors(folder.path):
            for sub in (folder.path, folder.logs, folder.rollouts, folder.checkpoints):
                sub.mkdir(parents=True, exist_ok=True)
            probe = folder.path / ".writable"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        return folder

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def fragments(self) -> Path:
        return self.path / "fragments"

    @property
    def episodes(self) -> Path:
        return self.path / "episodes"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def feedback(self) -> Path:
        return self.path / "feedback.sqlite"

    @property
    def reward_models(self) -> Path:
        return self.path / "reward_models"

    @property
    def spans(self) -> Path:
        return self.path / "spans.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def journal(self) -> Path:
        """Of the buffer; see `buffer.journal`."""
        return self.path / "buffer.journal"

    @property
    def crash(self) -> Path:
        return self.path / "crash.json"

    def write_crash(self, error: Exception, step: int, first: Mapping[str, Any] | None = None) -> None:
        """What ended the run, for whoever looks later. ``first``: the role that failed first; see `runtime.life`."""
        known = isinstance(error, RayrlError)
        what = {"error": type(error).__name__, "message": error.message if known else str(error), "hint": error.hint if known else ""}
        self.write_json(self.crash, {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": step} | what | {"first": first})

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Whole or not at all: a reader never sees half a file."""
        replace_atomically(path, lambda part: part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8"))
