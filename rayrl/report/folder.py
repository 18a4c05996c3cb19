"""Everything of a run folder but its trajectories, read as tolerantly as a person would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rayrl.errors import ConfigError
from rayrl.run_folder import RunFolder
from rayrl.telemetry.events import read_status
from rayrl.telemetry.jsonl import read_metrics


@dataclass
class RunData:
    """What one run says about itself. ``missing`` holds one line for everything that is not there or cannot be read."""

    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    """Resolved settings, nested."""
    origins: dict[str, str] = field(default_factory=dict)
    """Dotted key to the place where its value was set."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row per step, ascending (`telemetry.jsonl.read_metrics`)."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    crash: dict[str, Any] | None = None
    status: dict[str, Any] | None = None
    spans: list[dict[str, Any]] = field(default_factory=list)
    """Trace events as Perfetto reads them."""
    missing: list[str] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Rows of learner steps: those that say how long the step took."""
        return [row for row in self.metrics if isinstance(row.get("step/total_s"), int | float)]

    @property
    def state(self) -> str:
        """finished, failed, interrupted, running, or unknown."""
        if self.status and self.status.get("alive"):
            return "running"
        if self.crash is not None:
            return "failed"
        if self.status is None:
            return "unknown"
        state = str(self.status.get("state"))
        return state if state in ("finished", "failed", "interrupted") else "killed"

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key."""
        found: Any = self.config
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                return default
            found = found[part]
        return found


def read_run(path: Path | str) -> RunData:
    """Raises `ConfigError` only where ``path`` is no folder at all."""
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path} is no run folder", "give the folder that `rayrl train` printed, e.g. runs/NAME")
    folder = RunFolder(path.absolute())
    run = RunData(folder.path, folder.path.name)
    run.config = _read(run, "config.yaml", lambda p: yaml.safe_load(p.read_text(encoding="utf-8")), dict, {})
    run.origins = _read(run, "config_origins.json", lambda p: json.loads(p.read_text(encoding="utf-8")), dict, {})
    run.metrics = _read(run, folder.metrics.name, read_metrics, list, [])
    run.evaluations = _read(run, folder.evaluations.name, read_lines, list, [])
    run.events = _read(run, folder.events.name, read_lines, list, [])
    run.spans = _read(run, folder.spans.name, read_trace, list, [])
    run.status = read_status(folder.status)
    if folder.crash.exists():
        run.crash = _read(run, folder.crash.name, lambda p: json.loads(p.read_text(encoding="utf-8")), dict, {})
    if run.status is not None and (run.status["alive"] or run.status.get("state") == "finished"):
        run.crash = None  # of an earlier start: the run went on after it
    run.name = str(run.setting("run.name") or folder.path.name)
    if run.status is not None and run.state == "running":
        progress = f"step {run.status.get('step')} of {run.status.get('target')}"
        run.missing.append(f"the run is still going on ({progress}); this is what it has written so far")
    elif run.state == "killed":
        run.missing.append("the process of the run is gone without a last word; this is what it had written")
    return run


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; those that a crash cut are skipped."""
    rows = (parse_line(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [row for row in rows if row is not None]


def parse_line(line: str) -> dict[str, Any] | None:
    """None for a line that a crash cut, or that is no object."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Events of an open-ended trace array, one a line."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = line.strip().rstrip(",")
        if not line.startswith("{"):
            continue
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _read(run: RunData, name: str, read: Callable[[Path], Any], kind: type, otherwise: Any) -> Any:
    """``read`` of a file of the folder; ``otherwise`` and a line in ``missing`` where that fails."""
    path = run.path / name
    if not path.exists():
        run.missing.append(f"{name} is not there")
        return otherwise
    try:
        value = read(path)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        run.missing.append(f"{name} cannot be read ({type(error).__name__})")
        return otherwise
    if not isinstance(value, kind):
        run.missing.append(f"{name} holds something else than expected")
        return otherwise
    return value
