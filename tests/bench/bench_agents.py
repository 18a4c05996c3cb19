"""Training an environment agent end to end on NetHackScore: `rayrl train` against other systems, in trained frames per second.

    python tests/bench/bench_agents.py                                        # both networks, against the recurrent PPO loop
    python tests/bench/bench_agents.py --peers ppo_loop sample_factory rllib  # the others get virtual environments of their own
    python tests/bench/bench_agents.py --sizes small --seconds 30             # shorter
    python tests/bench/bench_agents.py --seconds 30 batch.groups_per_step=4 learner.minibatches=4 agent.value_clip=0
                                       # four such updates between two hand-overs of weights

All train the same network on the same observations with 1,024 frames an update; see agents_peers/. The sides run one after the other,
as often as --repeats says, and medians are compared. What happens before the first 20 seconds of training is not counted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from agent_rate import WARMUP_S, frames_per_s
from report import emit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "agents_peers"))
from run import measure  # noqa: E402

TARGETS = {"oni": 1.4, "small": 1.7}
"""Smallest acceptable rate of rayrl as a multiple of the fastest peer's, by network."""
PLAIN = ["agent.env=nethack_score", "agent.intrinsic.kind=none", "feedback.judge=none"]
"""The recipe without a judge."""


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
    """`conf/recipes/oni_nethack.yaml` without a judge."""
    return frames_per_s("oni_nethack", seconds, f"agent.network.size={size}", *PLAIN, *overrides)


if __name__ == "__main__":
    main()
