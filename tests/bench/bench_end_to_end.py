"""End to end, GRPO on this machine: TRL's `GRPOTrainer` against `rayrl train`, in completion tokens per second.

    python tests/bench/bench_end_to_end.py                                   # both kinds of length, synchronous and asynchronous
    python tests/bench/bench_end_to_end.py --kinds tailed --staleness 2      # one of them

Both sides train one model (`rayrl.models.tiny.BENCH`) in bfloat16 on the same prompts, 32 prompts x 8 samples a step, with a
KL penalty (k3 in the loss, 0.04) against a frozen reference. Random weights have no lengths of their own, so both are told the
length of every sample: 64 tokens each (``equal``), or log-normal with median 24, at most 256 (``tailed``). The first steps are
not counted. Synchronous runs have an engine on each core (`TURNS`), because nobody else works meanwhile; asynchronous ones have one
engine and leave the other core to the learner. The sides run one after the other; TRL lives in its own environment, ``.venv-trl``,
which is made when absent and sees this environment's packages, so that both sides use the same torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from statistics import median

import numpy as np
import torch
import yaml
from report import emit

from rayrl.models import tiny
from rayrl.telemetry.jsonl import read_metrics

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
TRL = "trl==1.16.0"
GROUPS, SIZE, PROMPT_TOKENS = 32, 8, 16
EQUAL, MEDIAN, SIGMA, LONGEST = 64, 24, 1.0, 256
SKIPPED = 2
"""First steps that are not counted: imports, compilation, caches, and the start of overlap."""
LIMIT_S = 1800
TURNS = ["rollout.num_engines=2", "rollout.cpu_threads=1"]
"""Settings of synchronous runs on two cores: a small model is bound by the engine's Python, which a second thread does not divide."""
TARGETS = {"equal": 1.2, "tailed": 3.0}
"""Smallest acceptable rate of rayrl as a multiple of TRL's, by kind of length."""
OVERLAP_TARGETS = {"equal": 1.1, "tailed": 1.3}
"""Smallest acceptable rate of asynchronous training as a multiple of synchronous training. Two cores allow 1.4: work is conserved."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=("equal", "tailed"), default=["equal", "tailed"])
    parser.add_argument("--staleness", nargs="+", type=int, default=[0, 2], help="buffer.max_staleness of rayrl: one run each")
    parser.add_argument("--repeats", type=int, default=1, help="the sides alternate")
    parser.add_argument("--without-trl", action="store_true", help="only asynchronous against synchronous training")
    parser.add_argument("--out", type=Path, help="keep the run folders here (default: a temporary folder)")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of rayrl")
    arguments = parser.parse_args()
    trl_python = None if arguments.without_trl else trl_environment()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        tiny.save(folder / "model", tiny.BENCH, dtype=torch.bfloat16)
        rates: dict[str, dict[str, list[float]]] = {kind: {} for kind in arguments.kinds}
        for kind in arguments.kinds:
            prompts, lengths = write_job(folder, kind, arguments.steps + 1 + max(arguments.staleness))
            for repeat in range(arguments.repeats):
                if trl_python:
                    rates[kind].setdefault("trl", []).append(run_trl(trl_python, folder, prompts, lengths, arguments.steps))
                for staleness in arguments.staleness:
                    run = folder / f"{kind}-staleness{staleness}-{repeat}"
                    rate = run_rayrl(run, folder, prompts, lengths, arguments.steps, staleness, arguments.overrides)
                    rates[kind].setdefault(f"staleness_{staleness}", []).append(rate)
    ratios, target = {}, {}
    for kind, sides in rates.items():
        ours = [side for side in sides if side != "trl"]
        for side in ours if "trl" in sides else ():
            ratios[f"{kind}_{side}_to_trl"] = ratio(sides[side], sides["trl"])
            target[f"{kind}_{side}_to_trl"] = (">=", TARGETS[kind])
        for side in ours[1:] if ours[0] == "staleness_0" else ():
            ratios[f"{kind}_{side}_to_synchronous"] = ratio(sides[side], sides["staleness_0"])
            target[f"{kind}_{side}_to_synchronous"] = (">=", OVERLAP_TARGETS[kind])
    sys.exit(0 if emit("end_to_end", ratios, target, tokens_per_s=rates) else 1)


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over neighbouring runs."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def write_job(folder: Path, kind: str, steps: int) -> tuple[Path, Path]:
    """Prompts, and one list of lengths per prompt, for ``steps`` steps."""
    count, words, rng = GROUPS * steps, random.Random(0), np.random.default_rng(0)
    tailed = np.clip(np.rint(MEDIAN * np.exp(SIGMA * rng.standard_normal((count, SIZE)))), 1, LONGEST).astype(int)
    lengths = tailed if kind == "tailed" else np.full((count, SIZE), EQUAL)
    rows = [{"prompt": "".join(words.choices("abcdefghijklmnopqrstuvwxyz", k=PROMPT_TOKENS)), "answer": ""} for _ in range(count)]
    files = folder / "prompts.jsonl", folder / f"lengths-{kind}.jsonl"
    for file, values in zip(files, (rows, lengths.tolist()), strict=True):
        file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return files


def trl_environment() -> Path:
    """The interpreter of ``.venv-trl``."""
    home = REPOSITORY / ".venv-trl"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        packages = next((home / "lib").glob("python*/site-packages"))
        (packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", TRL], check=True, timeout=LIMIT_S)
    return python


def run_trl(python: Path, folder: Path, prompts: Path, lengths: Path, steps: int) -> float:
    """Completion tokens per second after the skipped steps."""
    out = folder / "trl.json"
    command = [python, HERE / "trl_side.py", "--model", folder / "model", "--prompts", prompts, "--lengths", lengths]
    subprocess.run([*map(str, command), "--groups", str(GROUPS), "--steps", str(steps), "--out", str(out)], check=True, timeout=LIMIT_S)
    measured = json.loads(out.read_text())
    return sum(measured["tokens"][SKIPPED:]) / (measured["ends"][-1] - measured["ends"][SKIPPED - 1])


def run_rayrl(run: Path, folder: Path, prompts: Path, lengths: Path, steps: int, staleness: int, overrides: list[str]) -> float:
    """Completion tokens per second after the skipped steps."""
    recipe = run.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(settings(run, folder, prompts, lengths, steps, staleness)))
    equals = {"RAY_worker_niceness": "0"}  # Ray starts its workers at nice 15; TRL runs at 0
    environment = os.environ | equals | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    overrides = [*(TURNS if staleness == 0 else []), *overrides]
    command = [sys.executable, "-m", "rayrl", "train", str(recipe), "--profile", "cpu", "model.dtype=bfloat16", *overrides]
    subprocess.run(command, check=True, timeout=LIMIT_S, env=environment)
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["step"] > SKIPPED and "step/total_s" in row]
    return sum(row["step/tokens_per_s"] * row["step/total_s"] for row in rows) / sum(row["step/total_s"] for row in rows)


def settings(run: Path, folder: Path, prompts: Path, lengths: Path, steps: int, staleness: int) -> dict:
    return {
        "run": {"name": run.name, "dir": str(run), "steps": steps},
        "model": {"path": str(folder / "model"), "max_length": PROMPT_TOKENS + LONGEST},
        "data": {"source": str(prompts), "shuffle": False, "chat_template": False, "eval_size": 0, "max_prompt_length": PROMPT_TOKENS},
        "batch": {"groups_per_step": GROUPS, "group_size": SIZE},
        "rollout": {"length_limits": str(lengths), "sampling": {"max_tokens": LONGEST, "temperature": 1.0, "ignore_eos": True}},
        "rewards": {"components": {"vowels": {"verifier": "vowels:share_of_vowels"}}},
        "algorithm": {"name": "grpo", "kl": {"coef": 0.04, "place": "loss", "estimator": "k3"}},
        "learner": {"optim": {"lr": 1e-6}},
        "buffer": {"max_staleness": staleness},
        "evaluation": {"enabled": False},
        "checkpoint": {"export": False},
        "telemetry": {"wandb": "off"},
    }


if __name__ == "__main__":
    main()
