"""Training an environment agent end to end on NetHackScore: `rayrl train` against other systems, in trained frames per second.

    python tests/bench/bench_agents.py                                        # both networks, against the recurrent PPO loop
    python tests/bench/bench_agents.py --peers ppo_loop sample_factory rllib  # the others get virtual environments of their own
    python tests/bench/bench_agents.py --sizes small --seconds 30             # shorter

All train the same network on the same observations with 1,024 frames an update; see agents_peers/. The sides run one after the other,
as often as --repeats says, and medians are compared. What happens before the first 20 seconds of training is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from report import emit

from rayrl.telemetry.jsonl import read_metrics

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "agents_peers"))
from run import measure  # noqa: E402

TARGETS = {"oni": 1.4, "small": 1.7}
"""Smallest acceptable rate of rayrl as a multiple of the fastest peer's, by network."""
WARMUP_S = 20.0
PLAIN = ["agent.env=nethack_score", "agent.intrinsic.kind=none", "feedback.judge=none"]
"""The recipe without a judge."""
QUIET = ["telemetry.wandb=off", "telemetry.report=false", "evaluation.enabled=false", "checkpoint.export=false"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=tuple(TARGETS), default=list(TARGETS))
    parser.add_argument("--peers", nargs="+", choices=("ppo_loop", "sample_factory", "rllib"), default=["ppo_loop"])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=1, help="the sides alternate")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of rayrl")
    asked = parser.parse_args()
    rates: dict[str, dict[str, list[float]]] = {size: {} for size in asked.sizes}
    for _ in range(asked.repeats):
        for size in asked.sizes:
            for peer in asked.peers:
                rates[size].setdefault(peer, []).append(measure(peer, size, asked.seconds, WARMUP_S)["frames_per_s"])
            rates[size].setdefault("rayrl", []).append(rayrl(size, asked.seconds, asked.overrides))
    medians = {size: {side: median(found) for side, found in sides.items()} for size, sides in rates.items()}
    ratios = {size: sides["rayrl"] / max(sides[peer] for peer in asked.peers) for size, sides in medians.items()}
    ok = emit("agents", ratios, {size: (">=", TARGETS[size]) for size in ratios}, frames_per_s=medians)
    sys.exit(0 if ok else 1)


def rayrl(size: str, seconds: float, overrides: list[str]) -> float:
    """Trained frames per second of `conf/recipes/oni_nethack.yaml` without a judge; the run is ended by Ctrl-C when it was long enough."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        settings = [f"run.dir={folder}", "run.steps=1000000", f"agent.network.size={size}", *PLAIN, *QUIET, *overrides]
        process = subprocess.Popen([sys.executable, "-m", "rayrl", "train", "oni_nethack", *settings], stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 5 * (seconds + WARMUP_S) + 300
        try:
            while process.poll() is None and time.monotonic() < limit:
                time.sleep(1.0)
                counted = _counted(folder)
                if counted and counted[-1]["time"] - counted[0]["time"] >= seconds:
                    break
            else:
                raise RuntimeError(f"rayrl ended with {process.poll()}, or did not train for {seconds:.0f} s")
        finally:
            process.terminate()
            process.wait(timeout=120)
        frames = counted[-1]["agent/frames"] - counted[0]["agent/frames"]
        return frames / (counted[-1]["time"] - counted[0]["time"])


def _counted(folder: Path) -> list[dict]:
    """Metrics of the steps after the warm-up."""
    file = folder / "metrics.jsonl"
    rows = [row for row in read_metrics(file) if "agent/frames" in row] if file.exists() else []
    return [row for row in rows if row["time"] - rows[0]["time"] >= WARMUP_S]


if __name__ == "__main__":
    main()
