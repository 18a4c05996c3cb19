"""A run as its terminal shows it, from its folder alone: the same lines that training prints, while they are written.

Works on the machine of the run and on any other that sees the folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rayrl.assembly import load_view
from rayrl.config.loading import reload
from rayrl.errors import ConfigError, EnvironmentMissing, TargetNotReached
from rayrl.report.folder import parse_line, read_lines
from rayrl.run_folder import RunFolder
from rayrl.telemetry.console import Console
from rayrl.telemetry.events import read_status
from rayrl.views import table_row

_POLL_S = 0.5
_STATUS_S = 60.0
_FOLLOW_S = 30 * 86_400.0
"""Longer than anybody watches a job; Ctrl-C ends it before."""
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


def watch_job(job: str, address: str, *, once: bool = False) -> int:
    """The log of a job on a Ray cluster (`launch/submit.sh`): the lines that its driver prints, from the beginning, until it ends.

    ``address`` is the cluster's job server. Returns 0 unless the job ended before its target. Raises `ConfigError` for an unknown one.
    """
    tool = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if tool is None:
        raise EnvironmentMissing("following a job needs the command `ray`", "pip install ray, or give the job's run folder")
    ask = [tool, "job"]
    environment = os.environ | {"RAY_API_SERVER_ADDRESS": address}
    try:
        if subprocess.run([*ask, "logs", *([] if once else ["--follow"]), job], env=environment, timeout=_FOLLOW_S).returncode:
            raise ConfigError(f"no job {job} at {address}", "`ray job list` names them; a run folder can be watched too")
        answer = subprocess.run([*ask, "status", job], env=environment, capture_output=True, text=True, timeout=_STATUS_S)
    except KeyboardInterrupt:
        return 0  # the job goes on
    found = re.search(r"succeeded|failed|stopped|running|pending", answer.stdout + answer.stderr, re.IGNORECASE)
    return TargetNotReached.exit_code if found and found[0].lower() in ("failed", "stopped") else 0


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
