"""A study: one recipe under every combination of a few axes, and each cell beside the one it must be held against.

Its file (``conf/studies/NAME.yaml``) names a recipe, settings of all runs, and axes: for each option the settings that it stands for.
``against`` names an option of an axis: every cell is compared, seed by seed, with the cell that differs in this axis alone. The runs are
those of `compare`. Before and after every run the same held-out prompts are asked, so that a study also says what the starting policy
could do: pass@k, whether the task is one that it nearly knows, and how its solutions differ.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rayrl.compare import Arm, Row, Series, compare
from rayrl.config.layers import conf_folder
from rayrl.errors import ConfigError
from rayrl.evaluation.estimators import alignment
from rayrl.paths import nearest_files

FILE = "study.json"
UNEVEN = 0.01
"""Largest relative difference of tokens or labels between a cell and what it is held against that passes for equal."""
_KEYS = {"recipe", "settings", "axes", "against"}


@dataclass(frozen=True)
class Study:
    recipe: str
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Axis -> option -> overrides."""
    settings: tuple[str, ...] = ()
    """Overrides of every run."""
    against: tuple[str, str] | None = None
    """Axis and option."""


@dataclass(frozen=True)
class Cell:
    """One combination over its seeds."""

    place: Mapping[str, str]
    """Axis -> option."""
    row: Row
    pass_at: Mapping[int, float] = field(default_factory=dict)
    """Of the starting policy."""
    label: str = ""
    """``aligned``, ``between`` or ``not aligned``: see `estimators.alignment`."""
    ahead: tuple[float, ...] = ()
    """Accuracy minus that of the cell it is held against, seed by seed; empty for that cell itself."""
    uneven: float = 0.0
    """Relative difference of tokens or of labels to that cell, the larger one."""


def find(name: str) -> Study:
    """A study by its name under ``conf/studies``, or by its path. Raises `ConfigError` for a file that is none."""
    path = Path(name) if Path(name).is_file() else conf_folder() / "studies" / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ConfigError(f"no study {name!r}", f"studies: {', '.join(known)}" if known else nearest_files(path))
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"recipe", "axes"} <= found.keys() <= _KEYS:
        raise ConfigError(f"{path}: a study has the keys {', '.join(sorted(_KEYS))}", "recipe and axes are needed")
    axes = {
        str(axis): {str(option): tuple(settings or ()) for option, settings in options.items()} for axis, options in found["axes"].items()
    }
    against = next(((str(a), str(o)) for a, o in (found.get("against") or {}).items()), None)
    if against is not None and against[1] not in axes.get(against[0], {}):
        raise ConfigError(f"{path}: against names {against[0]}={against[1]}, which is no option of an axis", "name one of its options")
    return Study(found["recipe"], axes, tuple(found.get("settings") or ()), against)


def narrowed(study: Study, only: Mapping[str, Sequence[str]]) -> Study:
    """With some options of some axes. Raises `ConfigError` for an axis or an option that it does not have."""
    for axis, options in only.items():
        if axis not in study.axes:
            raise ConfigError(f"the study has no axis {axis!r}", f"axes: {', '.join(study.axes)}")
        strange = [o for o in options if o not in study.axes[axis]]
        if strange:
            raise ConfigError(f"axis {axis} has no option {strange[0]!r}", f"options: {', '.join(study.axes[axis])}")
    axes = {axis: {o: s for o, s in options.items() if o in only.get(axis, options)} for axis, options in study.axes.items()}
    kept = study.against if study.against and study.against[1] in axes[study.against[0]] else None
    return Study(study.recipe, axes, study.settings, kept)


def arms(study: Study) -> dict[tuple[str, ...], Arm]:
    """Options in the order of the axes -> the run that they are."""
    found = {}
    for place in itertools.product(*study.axes.values()):
        settings = [s for axis, option in zip(study.axes, place, strict=True) for s in study.axes[axis][option]]
        name = " ".join(f"{axis}={option}" for axis, option in zip(study.axes, place, strict=True))
        found[place] = Arm(name, study.recipe, (*study.settings, *settings))
    return found


def run(study: Study, series: Series, *, tokens: int) -> list[Cell]:
    """Runs every cell as `compare` does, and writes `FILE` beside its table."""
    own = arms(study)
    rows = compare(list(own.values()), series, tokens=tokens)
    found = cells(study, dict(zip(own, rows, strict=True)))
    (series.out / FILE).write_text(json.dumps({"tokens": tokens, "cells": [asdict(c) for c in found]}, indent=1) + "\n", "utf-8")
    return found


def cells(study: Study, rows: Mapping[tuple[str, ...], Row]) -> list[Cell]:
    """Finished rows, each with what its starting policy could do and beside the one it is held against."""
    found = []
    for place, row in rows.items():
        curve = {1: row.before} | {int(k.rpartition("_")[2]): v for k, v in row.exams[0].items() if k.startswith("pass_at_")}
        other = _opposite(study, place)
        base = rows[other] if other in rows and other != place else None
        found.append(
            Cell(
                dict(zip(study.axes, place, strict=True)),
                row,
                curve,
                alignment(curve) if len(curve) > 1 and row.runs else "",
                _ahead(row, base) if base else (),
                _uneven(row, base) if base else 0.0,
            )
        )
    return found


def summary(ahead: Sequence[float]) -> str:
    """``+12.5 ± 2.0`` points; a dash where nothing is compared."""
    if not ahead:
        return "—"
    spread = f" ± {100 * statistics.stdev(ahead):.1f}" if len(ahead) > 1 else ""
    return f"{100 * statistics.fmean(ahead):+.1f}{spread}"


def _opposite(study: Study, place: tuple[str, ...]) -> tuple[str, ...] | None:
    if study.against is None:
        return None
    axis, option = study.against
    return tuple(option if name == axis else mine for name, mine in zip(study.axes, place, strict=True))


def _ahead(row: Row, base: Row) -> tuple[float, ...]:
    """Only where every seed of both ended: the others could not be told apart."""
    return tuple(a - b for a, b in zip(row.by_seed, base.by_seed, strict=True)) if len(row.by_seed) == len(base.by_seed) else ()


def _uneven(row: Row, base: Row) -> float:
    pairs: list[tuple[Any, Any]] = [(row.tokens, base.tokens), (row.labels, base.labels)]
    return max((abs(a - b) / max(a, b) for a, b in pairs if not math.isnan(a + b)), default=0.0)
