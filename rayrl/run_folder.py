"""Where a run keeps what: one folder, plain files, readable while the run goes on.

config.yaml, config_origins.json   what runs, and where each value came from
metrics.jsonl                      one line per step
rollouts/*.parquet                 every trajectory that was trained on
evaluations.jsonl                  held-out accuracy with samples
checkpoints/step-NNNNNN/           atomic commits; `rayrl resume` continues from the newest good one
policy/                            the trained policy as a Hugging Face checkpoint
spans.json                         who did what when (open in ui.perfetto.dev)
logs/<role>.log, crash.json        what every process said; the first failure
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrl.errors import StorageError


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
        try:
            for sub in (folder.path, folder.logs, folder.rollouts, folder.checkpoints):
                sub.mkdir(parents=True, exist_ok=True)
            probe = folder.path / ".writable"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        except OSError as e:
            raise storage_error(folder.path, e) from e
        return folder

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def spans(self) -> Path:
        return self.path / "spans.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def crash(self) -> Path:
        return self.path / "crash.json"

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Whole or not at all: a reader never sees half a file."""
        part = path.with_suffix(path.suffix + ".part")
        try:
            part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
            os.replace(part, path)
        except OSError as e:
            raise storage_error(path, e) from e


def storage_error(path: Path, error: OSError) -> StorageError:
    """An `OSError` on the run folder, said so that a person knows what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left while writing {path}", "free space or set run.dir to another disk, then `rayrl resume`")
    return StorageError(f"cannot write {path}: {error.strerror or error}", "set run.dir to a folder that you may write")
