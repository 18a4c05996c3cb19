"""Runs the trials of `table.py` and writes what came out; see the package."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rayrl.cli import main as rayrl
from rayrl.config.loading import load
from rayrl.errors import RayrlError
from rayrl.ranking import rank
from rayrl.telemetry.jsonl import read_metrics
from tests.acceptance.in_process import train
from tests.acceptance.table import CHECKS, ONE_TOKEN_RECIPE, SEEDS, TOKENS, TRIALS, Trial

MEASURED = Path(__file__).parents[2] / "rayrl" / "measured.json"
_RESULT = "trial.json"
_SHOWN = ("policy/", "pairs/", "method/", "reward/", "rollout/length", "eval/")
_LAST = 3
"""Steps whose mean is the end of a run."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance", description="Runs the papers' checks on a tiny language model.")
    parser.add_argument("--papers", type=int, nargs="*", help="only the checks of these papers (default: all)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="seeds 0 to this number - 1")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens sampled by each run")
    parser.add_argument("--starts", type=Path, default=Path("models"), help="warm starts, made where they are missing")
    parser.add_argument("--out", type=Path, default=Path("runs/acceptance"))
    parser.add_argument("--write", type=Path, default=MEASURED, help="where the outcomes go")
    chosen = parser.parse_args(arguments)
    checks = [c for c in CHECKS if not chosen.papers or c.paper in chosen.papers]
    names = [n for n in TRIALS if not chosen.papers or any(n in (c.arm, c.control) for c in checks)]
    found: dict[str, list[dict[str, Any] | None]] = {name: [] for name in names}
    for seed in range(chosen.seeds):  # seed by seed, so that an early look sees all of them
        for name in names:
            try:
                result = one(name, seed, chosen.tokens, chosen.starts, chosen.out)
            except RayrlError as error:
                print(f"{name}, seed {seed}: {error}", flush=True)
                found[name].append(None)
                continue
            found[name].append(result)
            print(f"{name}, seed {seed}: {result['before']:.1%} -> {result['after']:.1%}, {result['seconds']:.0f} s", flush=True)
        write(chosen.write, chosen.tokens, found, [c for c in checks if c.arm in found])
    for line in judged(found, checks):
        verdict = "holds" if line["holds"] else "DOES NOT HOLD"
        print(f"paper {line['paper']:2}  {verdict:14} {line['claim']}: {line['arm']} against {line['control']}")


def one(name: str, seed: int, tokens: int, starts: Path, out: Path) -> dict[str, Any]:
    """What one trial measured: read where it is finished, else run."""
    folder = out / name.replace(", ", "-").replace(" ", "_") / f"seed-{seed}"
    trial = TRIALS[name]
    identity = {"recipe": trial.recipe, "overrides": list(trial.overrides), "tokens": tokens, "seed": seed}
    file = folder / _RESULT
    if file.is_file() and (saved := json.loads(file.read_text("utf-8")))["identity"] == identity:
        return saved["result"]
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.old-{time.time_ns()}"))
    model = warm(trial.start, starts)
    started = time.monotonic()
    overrides = [f"run.tokens={tokens}", *trial.overrides, f"run.dir={folder}", f"run.seed={seed}", f"model.path={model}"]
    train(trial.recipe, overrides)
    result = read(folder) | {"seconds": round(time.monotonic() - started, 1)}
    if trial.ranks:
        result |= ranked(trial, model, str(folder / "policy"))
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"identity": identity, "result": result}) + "\n", "utf-8")
    os.replace(part, file)
    return result


def warm(recipe: str, starts: Path) -> str:
    """Folder of the warm start of a recipe, made where it is missing."""
    own = Path(load(recipe, check=False).config.model.path).name
    folder = starts / (own if recipe != ONE_TOKEN_RECIPE else "one_token")
    if not folder.is_dir():
        rayrl(["warmstart", "--recipe", recipe, "--out", str(folder)])
    return str(folder)


def ranked(trial: Trial, before: str, after: str) -> dict[str, float]:
    """How well a policy retrieves after the run, and what it gained."""
    start, end = (_ranked(trial, folder) for folder in (before, after))
    return {f"rank/{name}": value for name, value in end.items()} | {f"rank/{name}_gain": end[name] - start[name] for name in end}


@cache
def _ranked(trial: Trial, folder: str) -> dict[str, float]:
    return rank(load(trial.recipe, [*trial.overrides, f"model.path={folder}"], profile="in_process"), folder, beams=64)


def read(folder: Path) -> dict[str, Any]:
    """Held-out accuracy before and after, and each metric of `_SHOWN` at the end of the run."""
    rows = read_metrics(folder / "metrics.jsonl")
    exams = [row for row in rows if row.get("eval/accuracy") is not None]
    steps = [row for row in rows if "learner/loss" in row]
    ends = {key: _mean([r.get(key) for r in steps[-_LAST:]]) for key in steps[-1] if key.startswith(_SHOWN)}
    ends |= {key: value for key, value in exams[-1].items() if key.startswith("eval/")}
    start = {f"start/{key}": value for key, value in exams[0].items() if key.startswith("eval/")}
    return {
        "before": exams[0]["eval/accuracy"],
        "after": exams[-1]["eval/accuracy"],
        "gain": exams[-1]["eval/accuracy"] - exams[0]["eval/accuracy"],
        "return_gain": exams[-1].get("eval/return", 0.0) - exams[0].get("eval/return", 0.0),
        "tokens": sum(int(r["rollout/tokens"]) for r in steps),
        "steps": len(steps),
        **{key: value for key, value in (ends | start).items() if value is not None},
    }


def judged(found: Mapping[str, Sequence[Mapping[str, Any] | None]], checks: Sequence[Any]) -> list[dict[str, Any]]:
    """Each check with the numbers of every seed that ended in both runs; it holds when it does so in most of them."""
    lines = []
    for check in checks:
        both = [(a, b) for a, b in zip(found[check.arm], found[check.control], strict=True) if a is not None and b is not None]
        pairs = [(a.get(check.quantity), b.get(check.quantity)) for a, b in both]
        held = [a is not None and check.holds(a, 0.0 if b is None else b) for a, b in pairs]
        lines.append(
            {
                "paper": check.paper,
                "claim": check.claim,
                "arm": check.arm,
                "control": check.control,
                "quantity": check.quantity,
                "arm_values": [_short(a) for a, _ in pairs],
                "control_values": [_short(b) for _, b in pairs],
                "seeds_held": sum(held),
                "holds": sum(held) * 2 > len(held),
            }
        )
    return lines


def write(file: Path, tokens: int, found: Mapping[str, Sequence[Mapping[str, Any] | None]], checks: Sequence[Any]) -> None:
    """Replaces the outcomes of the trials and checks that were run, and keeps those of others that are still what they were."""
    old = json.loads(file.read_text("utf-8")) if file.is_file() else {"trials": {}, "checks": []}
    fresh = judged(found, checks)
    names = {(line["paper"], line["claim"]) for line in fresh}
    ended = {name: [r for r in results if r is not None] for name, results in found.items()}
    trials = {
        name: {
            **dict(zip(("recipe", "overrides"), as_written(TRIALS[name]), strict=True)),
            "before": [_short(r["before"]) for r in results],
            "after": [_short(r["after"]) for r in results],
            "length": [_short(r["rollout/length_mean_tokens"]) for r in results],
            "entropy": [_short(r["policy/entropy"]) for r in results],
            "tokens": [r["tokens"] for r in results],
            "seconds": [r["seconds"] for r in results],
        }
        for name, results in ended.items()
        if results
    }
    kept = [line for line in old["checks"] if (line["paper"], line["claim"]) not in names]
    place = {(c.paper, c.claim, c.arm, c.control, c.quantity): i for i, c in enumerate(CHECKS)}
    where = lambda line: place.get((line["paper"], line["claim"], line["arm"], line["control"], line["quantity"]), -1)
    lines = sorted((line for line in [*kept, *fresh] if where(line) >= 0), key=where)
    same = {n: r for n, r in old["trials"].items() if n in TRIALS and (r["recipe"], r["overrides"]) == as_written(TRIALS[n])}
    everything = {"tokens": tokens, "trials": {**same, **trials}, "checks": lines}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")
    os.replace(part, file)


def as_written(trial: Trial) -> tuple[str, list[str]]:
    return trial.recipe, list(trial.overrides)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return statistics.fmean(there) if there else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


if __name__ == "__main__":
    main()
