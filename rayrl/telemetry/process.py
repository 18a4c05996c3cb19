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
