"""What the present process takes from the machine."""

from __future__ import annotations

import os
import resource
import sys


def resident_bytes() -> int:
    """Physical memory of this process; its largest so far where the system does not say the present value."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def tree_bytes(pid: int | str = "self") -> int:
    """Physical memory of this process and of all that it started, engines' worker processes included; pages they share count twice."""
    if not os.path.isdir("/proc/self/task"):
        return resident_bytes()
    held, page = 0, os.sysconf("SC_PAGE_SIZE")
    todo = [str(pid)]
    while todo:
        process = todo.pop()
        try:
            with open(f"/proc/{process}/statm", encoding="ascii") as file:
                held += int(file.read().split()[1]) * page
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", encoding="ascii") as file:
                    todo += file.read().split()
        except OSError:  # it ended meanwhile, or the kernel does not tell children
            continue
    return held


def available_bytes() -> int:
    """Memory of the machine that is still to be had; 0 where it does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")), 0)
    except OSError:
        return 0
