"""What feedback costs an agent's training: trained frames per second on NetHack with a judge, against the same run without one.

    python tests/bench/bench_feedback_cost.py                         # every case, about 20 minutes
    python tests/bench/bench_feedback_cost.py --cases hung --seconds 40

The judge is the stand-in, a process of its own on the same machine. Its latency is that of each answer; ``hung`` never answers. The
two learned rewards and ``retrieval`` have a judge as slow as a busy server (8 s an answer). Sides alternate; medians are compared.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from agent_rate import frames_per_s
from report import emit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.standin.process import standin

OFF = ("agent.intrinsic.kind=none", "feedback.judge=none")
CASES: dict[str, tuple[str, tuple[str, ...], float]] = {
    "latency_0": ("oni_nethack", (), 0.9),
    "latency_0.1": ("oni_nethack", ("--latency", "0.1"), 0.9),
    "latency_5": ("oni_nethack", ("--latency", "5"), 0.9),
    "hung": ("oni_nethack", ("--late", "1.0"), 0.9),
    "retrieval": ("oni_nethack", ("--latency", "8"), 0.94),
    "classification": ("oni_nethack_classification", ("--latency", "8"), 0.81),
    "ranking": ("oni_nethack_ranking", ("--latency", "8"), 0.81),
}
"""Recipe, the stand-in's arguments, and the smallest acceptable share of the speed without a judge."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of every run")
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {}
    for _ in range(asked.repeats):
        for case in ("off", *asked.cases):
            rates.setdefault(case, []).append(measure(case, asked.seconds, *asked.overrides))
    medians = {case: median(found) for case, found in rates.items()}
    ratios = {case: medians[case] / medians["off"] for case in asked.cases}
    ok = emit("feedback_cost", ratios, {case: (">=", CASES[case][2]) for case in asked.cases}, frames_per_s=medians)
    sys.exit(0 if ok else 1)


def measure(case: str, seconds: float, *overrides: str) -> float:
    recipe, arguments, _ = CASES.get(case, ("oni_nethack", (), 0.0))
    with nullcontext() if case == "off" else standin(*arguments) as judge:
        settings = OFF if judge is None else (f"feedback.base_url={judge.url}",)
        return frames_per_s(recipe, seconds, *settings, *overrides)


if __name__ == "__main__":
    main()
