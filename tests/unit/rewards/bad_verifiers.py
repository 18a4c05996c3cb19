"""Verifiers that behave as badly as users' code can; loaded by import path in the tests of the pool."""

import os
import signal
import subprocess
import sys
import threading
import time

_hoard = []


def by_name(completion, ground_truth, *, prompt="", num_tokens=-1, metadata=None):
    """The completion names the misbehaviour."""
    match completion:
        case "raise":
            raise KeyError("no such thing")
        case "raise unprintable":
            raise Unprintable
        case "nan":
            return float("nan")
        case "inf":
            return float("-inf")
        case "huge int":
            return 10**400
        case "none":
            return None
        case "text":
            return "1.0"
        case "nap":
            time.sleep(0.2)
        case "sleep":
            time.sleep(3600)
        case "spin":
            while True:
                pass
        case "stubborn":
            while True:
                try:
                    time.sleep(3600)
                except BaseException:
                    continue
        case "c hang":  # a big-integer power that holds the interpreter's lock
            return len(str(7 ** (7**12)))
        case "block alarm":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})
            time.sleep(3600)
        case "memory":
            _hoard.append(bytearray(8 * 2**30))
        case "leak":
            while True:
                _hoard.append(bytes(2**25))
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit(4)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "late exit":
            threading.Timer(0.02, os._exit, [5]).start()
        case "grandchild":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            time.sleep(3600)
        case "pid":
            return os.getpid()
        case "true":
            return True
        case "numpy":
            import numpy as np

            return np.float32(0.5)
        case "numpy bool":
            import numpy as np

            return np.bool_(True)
        case "numpy array":
            import numpy as np

            return np.ones(2)
        case "extras":
            return float(prompt == "P" and num_tokens == 3 and metadata == {"k": 1})
    return float(completion == ground_truth)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def heavy_modules(completion, ground_truth):
    """How many of the heavy packages this process has imported."""
    return float(len({"torch", "transformers", "ray", "numpy", "pyarrow", "datasets"} & set(sys.modules)))


def needs(completion, ground_truth, *, pattern, num_tokens):
    return 0.0


async def awaited(completion, ground_truth):
    return 0.0


def one_parameter(completion):
    return 0.0


def steps(completion, ground_truth, *, values):
    return list(values)
