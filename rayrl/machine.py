"""Facts about the machine this process runs on, read from the system with the standard library alone."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NVIDIA_SMI_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str
    memory: int
    """Bytes."""


@dataclass(frozen=True)
class Machine:
    """Cores and bytes that this process may use: limits of its container count."""

    system: str
    processor: str
    flags: frozenset[str]
    """Processor features as Linux names them; empty where they cannot be read."""
    cores: tuple[int, ...]
    """Ids of the usable cores."""
    memory: int
    disk_free: int
    """Of the working directory."""
    shared_memory: int
    """Size of /dev/shm; 0 where there is none."""
    gpus: tuple[Gpu, ...]

    @property
    def x86_64(self) -> bool:
        return platform.machine() in ("x86_64", "AMD64")


def inspect_machine() -> Machine:
    """Takes a few milliseconds without a GPU driver, up to `_NVIDIA_SMI_TIMEOUT_S` with one."""
    info = _read("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in lines.items()}
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=fields.get("model name", platform.processor() or platform.machine()),
        flags=frozenset(fields.get("flags", "").split()),
        cores=_cores(),
        memory=_memory(),
        disk_free=shutil.disk_usage(".").free,
        shared_memory=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
        gpus=_gpus(),
    )


def _cores() -> tuple[int, ...]:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = allowed[: max(1, int(quota) // int(period))]
    return tuple(allowed)


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _gpus() -> tuple[Gpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return ()  # a driver that does not answer is a machine without usable GPUs
    rows = [[part.strip() for part in line.split(",")] for line in answer.splitlines() if line.strip()]
    found = tuple(Gpu(int(index), name, int(float(mib)) * 2**20) for index, name, mib in rows)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if visible is None else found[: len([v for v in visible.split(",") if v.strip() and v.strip() != "-1"])]


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
