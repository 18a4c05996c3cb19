"""A run as its terminal shows it, from its folder alone: the same lines that training prints, while they are written.

Works on the machine of the run and on any other that sees the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rayrl.assembly import load_view
from rayrl.config.loading import reload
from rayrl.errors import ConfigError, TargetNotReached
from rayrl.report.folder import parse_line, read_lines
from rayrl.run_folder import RunFolder
from rayrl.telemetry.console import Console
from rayrl.telemetry.events import read_status
from rayrl.views import table_row

_POLL_S = 0.5
_QUIET = ("began", "training")
"""Events that the header says already."""


def watch(run_dir: Path, *, once: bool = False, console: Console | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
    """Prints until the run ends (or what there is, ``once``). Returns the exit status: 0 unless the run ended before its target.

    Raises `ConfigError` for a folder that holds no run.
    """
    if not (run_dir / "config.yaml").exists():
        raise ConfigError(f"{run_dir} holds no run", "give the folder that `rayrl train` printed; `rayrl ps` lists running ones")
    loaded, folder = reload(run_dir), RunFolder(run_dir)
    view, target = load_view(loaded.config), loaded.config.run.steps
    console = console or Console(columns=view.columns)
    console.header(loaded.config.run.name, view.facts(loaded))
    metrics, events, exams = (_Tail(path) for path in (folder.metrics, folder.events, folder.evaluations))
    ended = False
    while True:
        status = read_status(folder.status)
        ended = status is None or not status["alive"]  # asked before reading, so that the last lines are not missed
        for row in metrics.new():
            if isinstance(row.get("step/total_s"), int | float):
                console.step(table_row(view, row["step"], target, {k: float("nan") if v is None else v for k, v in row.items()}))
        for exam in exams.new():
            view.examined(console, exam)
        for event in events.new():
            if event.get("kind") not in _QUIET:
                console.say(f"{event.get('kind')}: {event.get('text', '')}")
        if ended or once:
            break
        sleep(_POLL_S)
    found = read_lines(folder.evaluations) if folder.evaluations.exists() else []
    if ended and len(found) >= 2:
        view.summary(console, found[0], found[-1])
    if not ended or status is None or status.get("state") == "finished":
        return 0
    console.say("the run ended before its target" if status.get("state") != "running" else "the process of the run is gone")
    return TargetNotReached.exit_code


class _Tail:
    """New whole lines of a JSON-lines file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            if (row := parse_line(line)) is not None:
                yield row
