"""Starts the stand-in as the process of its own that it is, for tests, demos and benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Running:
    url: str
    """Base URL, up to /v1."""
    process: subprocess.Popen

    def stats(self) -> dict[str, float]:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats", timeout=10) as response:
            return json.load(response)


@contextmanager
def standin(*arguments: str) -> Iterator[Running]:
    """``arguments`` as on its command line; it takes a free port unless they name one, and ends with the block."""
    command = [sys.executable, "-m", "tests.standin", *(() if "--port" in arguments else ("--port", "0")), *arguments]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if " at " not in line:
            raise RuntimeError(f"the stand-in did not start: {line!r}")
        yield Running(line.split(" at ")[1].split(",")[0], process)
    finally:
        process.kill()
        process.wait(10)
