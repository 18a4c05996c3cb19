"""Whole runs in a process each, without Ray: the same driver, roles and files on the in-process runtime. They start within a second."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path

LIMIT_S = 120
_PRELOADED = [
    "rayrl.cli.commands",
    "rayrl.driver",
    "rayrl.feedback.annotator",
    "rayrl.learner.networks",
    "rayrl.learner.torch",
    "rayrl.reward_models.build",
    "rayrl.reward_models.worker",
    "rayrl.rewards.scorer",
    "rayrl.rollout.fake",
    "rayrl.rollout.worker",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2.tokenization_qwen2_fast",
]


def context() -> BaseContext:
    """Children of a server that has everything imported already."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_PRELOADED)
    return found


class Child:
    """A run, or its continuation where ``recipe`` is None."""

    def __init__(self, folder: Path, recipe: str | None, overrides: Sequence[str], fault: Callable[[], None] | None = None) -> None:
        """``fault`` is called in the process before anything else."""
        self.folder = folder
        log = str(folder.with_suffix(f".{time.monotonic_ns()}.log"))
        self.process = context().Process(target=_work, args=(str(folder), recipe, list(overrides), log, fault))
        self.process.start()
        self._log = Path(log)

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_until(self, condition: Callable[[], object]) -> None:
        limit = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.is_alive() and time.monotonic() < limit, self.said
            time.sleep(0.005)

    def kill(self) -> None:
        """As an out-of-memory killer does it: without a word."""
        self.process.kill()
        self.process.join(LIMIT_S)

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)

    def end(self, status: int = 0) -> str:
        self.process.join(LIMIT_S)
        assert self.process.exitcode == status, (self.process.exitcode, self.said)
        return self.said


def _work(folder: str, recipe: str | None, overrides: list[str], log: str, fault: Callable[[], None] | None) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    import torch

    from rayrl import cli

    torch.set_num_threads(1)
    if fault is not None:
        fault()
    arguments = ["resume", folder] if recipe is None else ["train", recipe, f"run.dir={folder}"]
    code = cli.main([*arguments, "placement.runtime=in_process", *overrides])
    sys.stdout.flush()
    os._exit(code)  # threads of roles that are in the middle of something do not hold it up
