"""The process that runs verifiers: `python -m rayrl.rewards.child SOCKET_FD PROGRESS_FD`, started by `pool.VerifierPool`.

It speaks pickled messages over a socket that it inherits:

    parent → child   {"components": {name: (verifier, args)}, "memory_bytes": int, "limit_s": float}, once
    child → parent   ("ready", {component: names of wanted extras}) or ("refused", ConfigError), once
    parent → child   a chunk: list of (component, completion, ground_truth, extras)
    child → parent   lists of (value or None, error, latency in seconds), in the chunk's order, together as many as calls

and writes the index of the running call and when it began to a shared page, so that the parent knows which call a dead or
late process was busy with. It imports no numpy, torch or ray: a replacement is ready in a few hundredths of a second.
"""

from __future__ import annotations

import math
import mmap
import numbers
import pickle
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rayrl.errors import ConfigError
from rayrl.rewards.registry import bind

IDLE = -1
"""Index on the progress page while no call runs."""
ORPHAN_GRACE_S = 2.0
"""A call that outlives its limit by this much has lost its parent; the kernel's timer ends it."""
OUT_OF_MEMORY = "MemoryError: the verifier needs more than rewards.memory_mib"
_FLUSH_S = 0.05
_LONGEST_ERROR = 500

Result = tuple[float | None, str, float]


class Progress:
    """The shared page: which call runs, and since when. Its writer may be stopped anywhere, so that each word is written at once, the
    time before the index: nobody ever reads an index beside a time that is older than its call, or half a time."""

    def __init__(self, page: mmap.mmap) -> None:
        self._index, self._began = memoryview(page).cast("q"), memoryview(page).cast("d")

    def write(self, index: int, began: float) -> None:
        """``index`` within the chunk, ``began`` on `time.monotonic`."""
        self._began[1] = began
        self._index[0] = index

    def rest(self) -> None:
        """No call runs."""
        self._index[0] = IDLE

    def read(self) -> tuple[int, float]:
        index = self._index[0]
        return index, self._began[1]


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    page = mmap.mmap(int(sys.argv[2]), mmap.PAGESIZE)
    setup = pickle.loads(connection.recv_bytes())
    _limit_resources(setup["memory_bytes"])
    try:
        bound = {name: bind(name, verifier, args) for name, (verifier, args) in setup["components"].items()}
    except (ConfigError, MemoryError) as e:
        refusal = e if isinstance(e, ConfigError) else ConfigError("verifiers do not fit into memory", "Raise rewards.memory_mib.")
        connection.send_bytes(pickle.dumps(("refused", refusal)))
        return
    connection.send_bytes(pickle.dumps(("ready", {name: extras for name, (_, extras) in bound.items()})))
    _serve(connection, Progress(page), {name: function for name, (function, _) in bound.items()}, setup["limit_s"])


def _serve(connection: Connection, progress: Progress, functions: dict[str, Callable[..., Any]], limit_s: float) -> None:
    """Answers chunks until the parent closes the socket, or memory ran out: then a fresh process must take over."""
    while True:
        try:
            chunk = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        results: list[Result] = []
        flushed = time.monotonic()
        for index, (component, completion, ground_truth, extras) in enumerate(chunk):
            began = time.monotonic()
            if results and began - flushed > _FLUSH_S:
                connection.send_bytes(pickle.dumps(results))
                results, flushed = [], began
            progress.write(index, began)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a verifier may have left a handler of its own
            signal.setitimer(signal.ITIMER_REAL, limit_s + ORPHAN_GRACE_S)
            value, error = call(functions[component], completion, ground_truth, extras)
            results.append((value, error, time.monotonic() - began))
            if error == OUT_OF_MEMORY:
                progress.rest()
                connection.send_bytes(pickle.dumps(results))
                return
        signal.setitimer(signal.ITIMER_REAL, 0)
        progress.rest()
        connection.send_bytes(pickle.dumps(results))


def call(
    function: Callable[..., Any], completion: str, ground_truth: str | None, extras: dict[str, Any]
) -> tuple[float | tuple[float, ...] | None, str]:
    """``(value, "")`` when the verifier returned a finite number, or a list of them (one per step), else ``(None, what went wrong)``.

    Never raises.
    """
    try:
        value = function(completion, ground_truth, **extras)
        if isinstance(value, list | tuple):
            steps = tuple(float(v) for v in value)
            return (steps, "") if all(map(math.isfinite, steps)) else (None, f"returned steps {steps}, expected finite numbers")
        if not isinstance(value, numbers.Real) and getattr(value, "shape", None) == ():
            value = value.item()  # numpy and torch scalars
        if not isinstance(value, numbers.Real):
            return None, f"returned {type(value).__name__}, expected a number"
        if not math.isfinite(value):
            return None, f"returned {float(value)}, expected a finite number"
        return float(value), ""
    except MemoryError:
        return None, OUT_OF_MEMORY
    except BaseException as e:  # also SystemExit: whatever a verifier raises costs only its own sample
        return None, _describe(e)


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as e:
        text = f"(its message raised {type(e).__name__})"
    frames = traceback.extract_tb(error.__traceback__)[1:]
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:_LONGEST_ERROR]}{where}"


def _limit_resources(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere the address space cannot be capped
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
