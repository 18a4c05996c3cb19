"""Whole trainings of agents, with the stand-in judge as a process of its own. Prints a table.

    python -m tests.criteria teach             # chain of rooms: three kinds of intrinsic reward and controls, three seeds: half an hour
    python -m tests.criteria teach --seeds 1   # one seed
    python -m tests.criteria nethack           # NetHack without its reward, honest labels and labels that are all bad: ten minutes
    python -m tests.criteria steer             # NetHack without its reward, a judge who wants gold and one who wants fights: half an hour

teach: the random player never reaches the last room, and the reward alone teaches nothing: success is what the labels taught, measured
against a judge without information (random, permuted, all good, all bad). nethack: messages that the judge calls good, per 1,000 steps,
against random actions and the untrained network. steer: which of the two goals' messages are the more frequent ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.criteria.playing import seen
from tests.criteria.trainings import Outcome, train
from tests.standin.process import standin

RECIPES = {"retrieval": "oni_chain", "classification": "oni_chain_classification", "ranking": "oni_chain_ranking"}
CONTROLS = {"random labels": "random", "permuted labels": "permuted", "all bad": "zero", "all good": "one"}
TAUGHT, UNTAUGHT = 0.80, 0.05
WORLD = ("agent.env_args={length: 10, max_steps: 60}",)
"""Ten rooms: a random player crosses them about once in 30,000 episodes."""
ALONE = ("agent.intrinsic={kind: none}", "feedback.judge=none")
FREE = (
    *("agent.env=nethack_reward_free", "agent.extrinsic_coef=0", "agent.network.size=small", "learner.optim.lr=1e-3", "run.steps=1000"),
    *("learner.epochs=2", "agent.intrinsic.coef=1.0", "checkpoint.export=true"),
)
"""Labels are the only reward; 1,024,000 frames."""
ALIVE, OVER_CHANCE, OVER_UNTRAINED, CONTROL = 100_000, 2.0, 1.5, 1.2
"""Frames that policies are compared over, and by how much they must differ."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.criteria", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("teach", "nethack", "steer"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=tuple(RECIPES), default=list(RECIPES), help="of teach")
    parser.add_argument("--without-controls", action="store_true")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of every run")
    asked = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        ok = {"teach": teach, "nethack": nethack, "steer": steer}[asked.what](asked, Path(folder))
    print("holds" if ok else "does not hold", flush=True)
    sys.exit(0 if ok else 1)


def seeds(asked: argparse.Namespace) -> range:
    return range(asked.first_seed, asked.first_seed + asked.seeds)


def teach(asked: argparse.Namespace, folder: Path) -> bool:
    """Each kind succeeds with every seed; the reward alone does not; no judge without information comes near."""
    found: dict[str, list[Outcome]] = {}
    cases = [(kind, RECIPES[kind], "none", ()) for kind in asked.kinds]
    if not asked.without_controls:
        cases += [("reward alone", "oni_chain", None, ALONE)]
        cases += [(name, "oni_chain", control, ()) for name, control in CONTROLS.items()]
        cases += [(f"{kind}, random labels", RECIPES[kind], "random", ()) for kind in asked.kinds if kind != "retrieval"]
    for seed in seeds(asked):
        for name, recipe, control, extra in cases:
            settings = (f"run.seed={seed}", *WORLD, *extra, *asked.overrides)
            found.setdefault(name, []).append(one(folder / f"{name}-{seed}", recipe, control, *settings))
            say(name, seed, found[name][-1])
    ok = all(o.success >= TAUGHT for kind in asked.kinds for o in found[kind])
    ok &= all(o.success <= UNTAUGHT for o in found.get("reward alone", ()))
    worst = min(o.success for kind in asked.kinds for o in found[kind])
    ok &= all(o.success < worst for name in found.keys() - set(asked.kinds) for o in found[name])
    for name, outcomes in found.items():
        print(f"{name:30} " + "  ".join(f"{o.success:6.1%}" for o in outcomes), flush=True)
    return ok


def one(folder: Path, recipe: str, control: str | None, *overrides: str) -> Outcome:
    judge = nullcontext() if control is None else standin("--control", control)
    with judge as running:
        address = () if running is None else (f"feedback.base_url={running.url}",)
        return train(recipe, folder, *address, *overrides)


def nethack(asked: argparse.Namespace, folder: Path) -> bool:
    """Taught by labels, it shows more of what they call good than chance does and than it did; taught by nothing it does not."""
    env, ok = "nethack_reward_free", True
    for seed in seeds(asked):
        rates = {"random actions": seen(env, ALIVE, seed)["score"]}
        for control in ("none",) if asked.without_controls else ("none", "zero"):
            run = folder / f"{control}-{seed}"
            say(control, seed, one(run, "oni_nethack", control, f"run.seed={seed}", *FREE, *asked.overrides))
            rates[control] = seen(env, ALIVE, seed, run)["score"]
        rates["untrained"] = seen(env, ALIVE, seed, run, untrained=True)["score"]
        print(f"seed {seed}, good messages per 1,000 steps: " + ", ".join(f"{k} {v:.2f}" for k, v in rates.items()), flush=True)
        ok &= rates["none"] >= OVER_CHANCE * rates["random actions"] and rates["none"] >= OVER_UNTRAINED * rates["untrained"]
        ok &= rates.get("zero", 0.0) <= CONTROL * rates["random actions"]
    return ok


def steer(asked: argparse.Namespace, folder: Path) -> bool:
    """Two judges, two goals: under each, its own messages are the more frequent ones."""
    env, ok = "nethack_reward_free", True
    for seed in seeds(asked):
        rates: dict[str, dict[str, float]] = {}
        for goal in ("gold", "combat"):
            run = folder / f"{goal}-{seed}"
            say(goal, seed, one(run, "oni_nethack", "none", f"run.seed={seed}", f"feedback.goal={goal}", *FREE, *asked.overrides))
            rates[goal] = seen(env, ALIVE, seed, run)
        for goal, found in rates.items():
            print(f"seed {seed}, judge wants {goal}: gold {found['gold']:.2f}, combat {found['combat']:.2f} per 1,000 steps", flush=True)
        ok &= rates["gold"]["gold"] > rates["gold"]["combat"] and rates["combat"]["combat"] > rates["combat"]["gold"]
    return ok


def say(name: str, seed: int, outcome: Outcome) -> None:
    print(
        f"{name:30} seed {seed}: success {outcome.success:6.1%}, {outcome.frames:,} frames, {outcome.labels} labels "
        f"({outcome.asked} asked), {outcome.seconds:.0f} s",
        flush=True,
    )


main() if __name__ == "__main__" else None
