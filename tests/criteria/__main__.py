"""Whole trainings on the chain of rooms, with the stand-in judge as a process of its own. Prints a table.

    python -m tests.criteria teach             # three kinds of intrinsic reward and the controls, three seeds each: half an hour
    python -m tests.criteria teach --seeds 1   # one seed

The random player never reaches the last room, and the reward alone teaches nothing: success is what the labels taught, measured
against a judge without information (random, permuted, all good, all bad).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.criteria.trainings import Outcome, train
from tests.standin.process import standin

RECIPES = {"retrieval": "oni_chain", "classification": "oni_chain_classification", "ranking": "oni_chain_ranking"}
CONTROLS = {"random labels": "random", "permuted labels": "permuted", "all bad": "zero", "all good": "one"}
TAUGHT, UNTAUGHT = 0.80, 0.05
WORLD = ("agent.env_args={length: 10, max_steps: 60}",)
"""Ten rooms: a random player crosses them about once in 30,000 episodes."""
ALONE = ("agent.intrinsic={kind: none}", "feedback.judge=none")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.criteria", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("teach",))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--without-controls", action="store_true")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of every run")
    asked = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        ok = teach(asked, Path(folder))
    sys.exit(0 if ok else 1)


def teach(asked: argparse.Namespace, folder: Path) -> bool:
    """Each kind succeeds with every seed; the reward alone does not; no judge without information comes near."""
    found: dict[str, list[Outcome]] = {}
    cases = [(kind, RECIPES[kind], "none", ()) for kind in asked.kinds]
    if not asked.without_controls:
        cases += [("reward alone", "oni_chain", None, ALONE)]
        cases += [(name, "oni_chain", control, ()) for name, control in CONTROLS.items()]
    for seed in range(asked.seeds):
        for name, recipe, control, extra in cases:
            found.setdefault(name, []).append(one(folder / f"{name}-{seed}", recipe, control, f"run.seed={seed}", *extra, *asked.overrides))
            say(name, seed, found[name][-1])
    ok = all(o.success >= TAUGHT for kind in asked.kinds for o in found[kind])
    ok &= all(o.success <= UNTAUGHT for o in found.get("reward alone", ()))
    worst = min(o.success for kind in asked.kinds for o in found[kind])
    ok &= all(o.success < worst for name in CONTROLS for o in found.get(name, ()))
    for name, outcomes in found.items():
        print(f"{name:16} " + "  ".join(f"{o.success:6.1%}" for o in outcomes), flush=True)
    print("holds" if ok else "does not hold", flush=True)
    return ok


def one(folder: Path, recipe: str, control: str | None, *overrides: str) -> Outcome:
    judge = nullcontext() if control is None else standin("--control", control)
    with judge as running:
        address = () if running is None else (f"feedback.base_url={running.url}",)
        return train(recipe, folder, *address, *WORLD, *overrides)


def say(name: str, seed: int, outcome: Outcome) -> None:
    print(
        f"{name:22} seed {seed}: success {outcome.success:6.1%}, {outcome.frames:,} frames, {outcome.labels} labels "
        f"({outcome.asked} asked), {outcome.seconds:.0f} s",
        flush=True,
    )


main() if __name__ == "__main__" else None
