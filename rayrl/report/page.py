"""One self-contained HTML file about one run or several: no network, opens from disk.

Everything that a run wrote reaches the page in one of two ways: as text that the template escapes, or inside one block of base64 (gzip
of JSON), which can hold no markup and which the page's script only ever shows through ``textContent``. A content security policy with a
nonce forbids every other script and every connection.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from rayrl import __version__
from rayrl.errors import EnvironmentMissing
from rayrl.report import curves
from rayrl.report.answers import answers, trust
from rayrl.report.bounds import phases
from rayrl.report.details import read_details, token_decoder
from rayrl.report.excerpts import read_excerpts
from rayrl.report.folder import RunData, read_run
from rayrl.report.index import NO_TRAJECTORIES, Index, Texts, read_index
from rayrl.report.judgements import Judgements
from rayrl.report.labels import Labels, read_labels
from rayrl.report.rewarders import rewarders
from rayrl.report.sample import choose
from rayrl.report.timeline import Timeline, timeline
from rayrl.telemetry.files import replace_atomically

BUDGET = 2_600_000
"""Bytes of compressed trajectories in a page, all runs together."""
_SCRIPTS = ("core.js", "charts.js", "timeline.js", "trajectory.js", "browser.js", "player.js", "main.js")
_NEEDS = ("reports need the packages plotly and jinja2", 'pip install "rayrl[report]", or run launch/setup.sh')
_KINDS = {"int32": "i4", "float32": "f4", "uint8": "u1"}
_OWN_SETTINGS = ("run.seed", "run.name", "run.dir")


@dataclass
class Seen:
    """One run as the page shows it."""

    run: RunData
    index: Index
    rewarders: list[dict[str, Any]]
    cost: dict[int, float]
    """Dollars by step."""
    timeline: Timeline
    labels: Labels | None
    """None where no judge was asked."""
    excerpts: list[dict[str, Any]]
    """Of environment agents (`excerpts`)."""


def look(path: Path | str, known: Seen | None = None) -> Seen:
    """Reads a run folder; ``known`` spares what has not changed since. Raises `ConfigError` where there is none."""
    run = read_run(path)
    index = read_index(run.folder.rollouts, known.index if known else None)
    found, cost = (known.rewarders, known.cost) if known and known.index is index else rewarders(index)
    labels, unreadable = read_labels(run.path / "feedback.sqlite")
    run.missing += [unreadable] if unreadable else []
    excerpts, unread = read_excerpts(run.folder.fragments, run.folder.feedback, run.folder.episodes)
    run.missing += unread
    if excerpts:  # an environment agent has no trajectories of tokens
        index.missing = [line for line in index.missing if line != NO_TRAJECTORIES]
    return Seen(run, index, found, cost, timeline(run.spans), labels, excerpts)


def write(paths: Sequence[Path | str], out: Path) -> Path:
    """The report of the runs, overlaid where there are several; returns ``out``.

    Raises `ConfigError`, `EnvironmentMissing`, `StorageError`.
    """
    html = render([look(path) for path in paths])
    replace_atomically(out, lambda part: part.write_text(html, encoding="utf-8"))
    return out


def render(seen: Sequence[Seen]) -> str:
    """The page with a sample of the trajectories inside."""
    _tell_apart([one.run for one in seen])
    columns, details = _sampled(seen)
    data = _data(seen) | {"index": columns, "details": details, "live": False}
    return _html(seen, _embedded(data), plotly=True)


def shell(seen: Seen) -> str:
    """The page of the local server: everything but trajectories, which it asks for (`server`)."""
    return _html([seen], _embedded(_data([seen]) | {"live": True}), plotly=False)


def columns(index: Index, rows: np.ndarray | None = None, run: int = 0, put: Callable[[np.ndarray], Any] | None = None) -> dict[str, Any]:
    """An index, or some of its rows, for the page. ``put`` says how a column is written: by default `typed`."""
    rows, put = np.arange(len(index)) if rows is None else rows, put or typed
    return {
        "n": len(rows),
        "row": put(rows.astype(np.int32)),
        "run": put(np.full(len(rows), run, np.uint8)),
        "numbers": {name: put(values[rows]) for name, values in index.numbers.items()},
        "texts": {name: {"codes": put(text.codes[rows]), "labels": _short(name, text)} for name, text in index.texts.items()},
        "components": {name: put(values[rows]) for name, values in index.components.items()},
    }


def packed(index: Index) -> bytes:
    """`columns` of the whole index as the local server sends them, with nothing to decode on the other side.

    Length of a JSON text (uint32), the text, spaces up to a multiple of 4, then the bytes of the columns, each from a multiple of 4.
    A column is its kind, the place of its first byte behind the text, and its length.
    """
    chunks: list[bytes] = []

    def put(values: np.ndarray) -> list[Any]:
        place = sum(map(len, chunks))
        chunks.append(_bytes(values))
        chunks.append(bytes(-len(chunks[-1]) % 4))
        return [_KINDS[values.dtype.name], place, len(values)]

    head = json.dumps(columns(index, put=put), separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    return b"".join([len(head).to_bytes(4, "little"), head, *chunks])


def plotly_script() -> str:
    """Raises `EnvironmentMissing`."""
    try:
        return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise EnvironmentMissing(*_NEEDS) from error


def judgements(run: RunData) -> Judgements | None:
    """None where no judge was asked."""
    path = run.folder.feedback
    return Judgements(path) if path.is_file() else None


def family(run: RunData) -> str:
    """Equal for runs that differ in nothing but seed, name and folder."""
    flat = {key: value for key, value in _flat(run.config).items() if key not in _OWN_SETTINGS}
    return hashlib.sha256(json.dumps(flat, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _tell_apart(runs: Sequence[RunData]) -> None:
    """Runs of one name get their seed, or the name of their folder where that is equal too."""
    names, marks = Counter(run.name for run in runs), Counter((run.name, run.setting("run.seed")) for run in runs)
    for run in [run for run in runs if names[run.name] > 1]:
        own = f"seed {run.setting('run.seed')}" if marks[run.name, run.setting("run.seed")] == 1 else run.path.name
        run.name = f"{run.name}, {own}"


def _sampled(seen: Sequence[Seen]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Typed columns per run, and details by ``run/row``."""
    tables, details = [], {}
    for number, one in enumerate(seen):
        decode, missing = token_decoder(one.run)
        if missing and len(one.index):
            one.run.missing.append(missing)
        load = partial(read_details, one.index, decode=decode, judgements=judgements(one.run))
        found = choose(one.index, BUDGET // len(seen), load)
        tables.append(columns(one.index, np.array(list(found), np.int64), number))
        details |= {f"{number}/{row}": value for row, value in found.items()}
    return tables, details


def _data(seen: Sequence[Seen]) -> dict[str, Any]:
    """Everything the scripts draw, but trajectories."""
    runs, all_series = [], []
    for one in seen:
        found = curves.series(one.run, one.index, one.cost)
        all_series.append(found)
        line = one.timeline
        runs.append(
            {
                "name": one.run.name,
                "group": str(one.run.setting("run.name") or one.run.name),
                "seed": one.run.setting("run.seed"),
                "family": family(one.run),
                "series": found,
                "timeline": {
                    "roles": line.roles,
                    "bars": [[line.roles.index(b.role), b.activity, round(b.start_s, 4), round(b.end_s, 4)] for b in line.bars],
                    "origin": line.origin,
                    "steps": _step_ends(one.run, line.origin) if line.bars else [],
                },
                "events": [[e.get("time"), e.get("step"), e.get("kind"), str(e.get("text", ""))[:400]] for e in one.run.events],
                "trust": trust(one.run, one.index).points,
                "total": len(one.index),
                "excerpts": one.excerpts,
            }
        )
    return {"runs": runs, "charts": curves.charts(all_series)}


def _html(seen: Sequence[Seen], data: str, *, plotly: bool) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise EnvironmentMissing(*_NEEDS) from error
    environment = jinja2.Environment(loader=jinja2.PackageLoader("rayrl.report", "page"), autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": lambda share: f"{100 * share:.0f} %", "clock": _clock, "number": _number}
    runs = []
    for one in seen:
        found = phases(one.run, one.index)
        runs.append(
            {
                "run": one.run,
                "index": one.index,
                "missing": [*one.run.missing, *one.index.missing],
                "answers": answers(one.run, one.index, one.rewarders, found, one.excerpts),
                "rewarders": one.rewarders,
                "labels": one.labels,
                "excerpts": one.excerpts,
                "phases": found,
                "timeline": one.timeline,
                "trust": trust(one.run, one.index).sentences,
                "config": [(key, _shown(value), one.run.origins.get(key, "")) for key, value in _flat(one.run.config).items()],
                "samples": _before_and_after(one.run),
                "weight_versions": max((int(row.get("sync/version") or 0) for row in one.run.metrics), default=0),
            }
        )
    return environment.get_template("page.html.j2").render(
        runs=runs,
        nonce=secrets.token_urlsafe(16),
        style=_asset("style.css"),
        scripts="\n".join(_asset(name) for name in _SCRIPTS),
        plotly=plotly_script() if plotly else "",
        live=not plotly,
        data=data,
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _step_ends(run: RunData, origin: float) -> list[list[float]]:
    """``[step, seconds]`` of every step's end on the time axis of the timeline."""
    return [[row["step"], round(row["time"] - origin, 3)] for row in run.steps if "time" in row]


def _before_and_after(run: RunData) -> list[dict[str, Any]]:
    """The same held-out prompts at the first and at the last evaluation."""
    if len(run.evaluations) < 2:
        return []
    read = lambda exam: {s["prompt"]: s for s in exam.get("samples") or () if {"prompt", "completion", "correct"} <= s.keys()}
    first, last = read(run.evaluations[0]), read(run.evaluations[-1])
    return [{"prompt": prompt, "before": first[prompt], "after": last[prompt]} for prompt in first if prompt in last][:6]


def _embedded(data: dict[str, Any]) -> str:
    return base64.b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6)).decode()


def typed(values: np.ndarray) -> list[str]:
    """A column as the page reads it: its kind, and its bytes in base64."""
    return [_KINDS[values.dtype.name], base64.b64encode(_bytes(values)).decode()]


def _bytes(values: np.ndarray) -> bytes:
    """Least significant first."""
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _short(name: str, text: Texts) -> list[str]:
    """Prompts are only recognised in lists, not read there."""
    return [label[:160] for label in text.labels] if name == "prompt" else text.labels


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _clock(seconds: Any) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) if isinstance(seconds, int | float) else ""


def _number(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else "–"


@lru_cache
def _asset(name: str) -> str:
    return (resources.files("rayrl.report") / "page" / name).read_text(encoding="utf-8")
