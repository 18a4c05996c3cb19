"""Whole runs in this process: the same driver, roles and files on the in-process runtime, without Ray. They start within a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rayrl import assembly
from rayrl.config.placement import RoleResources, placement_mode, role_resources, run_resources
from rayrl.config.schema import Config
from rayrl.machine import inspect_machine
from rayrl.runtime.contract import Runtime
from rayrl.runtime.local import LocalRuntime


def start_runtime(config: Config, log_dir: Path) -> tuple[Runtime, Mapping[str, RoleResources], str]:
    """In place of `assembly.start_runtime`."""
    machine = inspect_machine()
    found = run_resources(config.placement, len(machine.cores), len(machine.gpus))
    roles = role_resources(config, found.cpus, found.gpus, cores=None)
    return LocalRuntime(config.deadlines.call_s), {role.name: role for role in roles}, placement_mode(config, found.gpus)


def without_ray() -> None:
    """From now on runs of this process have no Ray."""
    assembly.start_runtime = start_runtime
