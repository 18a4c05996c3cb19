"""What it costs to record a run and to look at it.

    python tests/bench/bench_report.py

``paint``: seconds from `rayrl view` on a run of 10^5 trajectories to a page in a headless Chromium that shows its texts, its tables and
the list of trajectories, over 3 s. ``finished_s``: until the curves are drawn too; Plotly alone takes more than a second to begin.
``write``: seconds of `rayrl report` for a run of 200 steps of 256 trajectories, over 10 s. ``size``: bytes of that page over 10 MB.
``filter``: the slowest of a few filters over 10^5 trajectories, over 0.2 s.
``recording``: processor time spent on trajectories, reward and token records and spans, over that of a step without them, in one run
of the real parts (vLLM, DeepSpeed, the demo's model) that records in every other block of steps (`recording_cost.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from report import emit

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from conftest import Page, browser
from made_up import made_up_run

from rayrl.report.page import write
from rayrl.report.server import start

FILTERS = {"task": "sums", "low": "0.5", "step-low": "40", "finish": "stop", "sort": "length ↓", "text": "answer 7"}
LIMIT_S = 600


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cost = recording(folder)
        paint_s, finished_s, filter_s = looking(folder)
        run = made_up_run(folder / "two_hundred", steps=200, groups=32, samples=8)
        began = time.perf_counter()
        page = write([run], folder / "report.html")
        write_s = time.perf_counter() - began
        ratios = {
            "paint": paint_s / 3,
            "filter": filter_s / 0.2,
            "write": write_s / 10,
            "size": page.stat().st_size / 1e7,
            "recording": cost["recording_share"],
        }
    targets = {"paint": ("<=", 1.0), "filter": ("<=", 1.0), "write": ("<=", 1.0), "size": ("<=", 1.0), "recording": ("<=", 0.02)}
    sys.exit(
        0 if emit("report", ratios, targets, paint_s=paint_s, finished_s=finished_s, filter_s=filter_s, write_s=write_s, **cost) else 1
    )


def looking(folder: Path) -> tuple[float, float, float]:
    """Of a page of 10^5 trajectories: seconds until it is painted, until its curves are drawn, and of its slowest filter."""
    run = made_up_run(folder / "many", steps=100, groups=125, samples=8)
    with browser() as driver:
        page = Page(driver)
        page.open("data:text/html,<html data-ready=true>")
        began = time.time()
        server = start(run)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"http://127.0.0.1:{server.server_address[1]}/")
        finished_s = time.time() - began
        listed = "return performance.timeOrigin + performance.getEntriesByName('listed')[0].startTime"
        paint_s = page.js(listed) / 1e3 - began  # by the page's own clock: it does not answer while Plotly begins
        slowest = 0.0
        for name, value in FILTERS.items():
            page.set(name, value)
            slowest = max(slowest, page.js("return rayrl.browser.took"))
        server.shutdown()
    return paint_s, finished_s, slowest / 1e3


def recording(folder: Path) -> dict[str, float]:
    """See `recording_cost.py`; a process of its own, because it holds the driver still for its measurements."""
    command = [sys.executable, str(Path(__file__).with_name("recording_cost.py")), str(folder)]
    done = subprocess.run(command, check=True, timeout=LIMIT_S, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
