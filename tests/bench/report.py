"""One JSON line per benchmark, the same shape for all, so that runs can be compared by a machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from typing import Any


def emit(name: str, ratios: Mapping[str, float], target: Mapping[str, tuple[str, float]], **details: Any) -> bool:
    """Prints ``{"bench": name, "ok": ..., "ratios": ..., "target": ..., "details": ..., "machine": ...}`` and returns ``ok``.

    ``target``: what a ratio must satisfy, e.g. ``{"throughput": (">=", 0.8)}``; ratios without one are only shown.
    Raises `KeyError` for a target without its ratio.
    """
    ok = all(ratios[key] >= bound if sign == ">=" else ratios[key] <= bound for key, (sign, bound) in target.items())
    line = {
        "bench": name,
        "ok": ok,
        "ratios": {key: round(value, 4) for key, value in ratios.items()},
        "target": {key: f"{sign} {bound:g}" for key, (sign, bound) in target.items()},
        "details": details,
        "machine": {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": platform.python_version()},
    }
    print(json.dumps(line), flush=True)
    return ok
