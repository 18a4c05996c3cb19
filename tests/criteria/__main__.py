"""Whole trainings of agents, with the stand-in judge as a process of its own. Prints a table.

    python -m tests.criteria teach             # chain of rooms: three kinds of intrinsic reward and controls, three seeds: an hour
    python -m tests.criteria teach --seeds 1   # one seed
    python -m tests.criteria nethack           # NetHack without its reward, honest labels and labels all bad: six of 6 to 9 minutes
    python -m tests.criteria steer             # NetHack without its reward, a judge who wants gold and one who wants fights: the same
    python -m tests.criteria nethack --jobs 8 learner.cpu_threads=1   # eight side by side, on a machine with two cores for each

teach: the random player never reaches the last room, and the reward alone teaches nothing: success is what the labels taught, measured
against a judge without information (random, permuted, all good, all bad). nethack: messages that the judge calls good, per 1,000 steps,
against random actions and the untrained network. steer: which deeds are the more frequent ones, the purse growing or kills of its own,
in episodes of 200 steps, and that each goal's are more frequent than with random actions. Deeds are the game's own counts: many of the
messages about gold and fights are about what a pet does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.criteria.playing import seen
from tests.criteria.trainings import Outcome, train
from tests.standin.process import standin

RECIPES = {"retrieval": "oni_chain", "classification": "oni_chain_classification", "ranking": "oni_chain_ranking"}
CONTROLS = {"random labels": "random", "permuted labels": "permuted", "all bad": "zero", "all good": "one"}
TAUGHT, UNTAUGHT = 0.80, 0.05
ALONE = ("agent.intrinsic={kind: none}", "feedback.judge=none")
FREE = (
    *("agent.env=nethack_reward_free", "agent.extrinsic_coef=0", "agent.network.size=small", "learner.optim.lr=1e-3", "run.steps=800"),
    *("learner.epochs=2", "agent.intrinsic.coef=1.0", "checkpoint.export=true"),
    *("agent.intrinsic.pays=last_action", "agent.gamma=0.95", "agent.credit=gae", "agent.lam=0.9"),
)
"""Labels are the only reward; 819,200 frames, which are few: what an action led to within ten steps or so is all that they can teach."""
GOALS, GOALS_STEPS = {"gold": "purse", "combat": "kills"}, 200
"""What the judges of `steer` want, the deeds that show it, and the length of its episodes: a level's gold is soon picked up, and the next
episode has more."""
STEER = (f"agent.env_args={{max_episode_steps: {GOALS_STEPS}}}", "agent.mask_numbers=true")
"""Every sum of gold is another text; their numbers masked, they are one, and have its label from the first day."""
ENV, ALIVE = "nethack_reward_free", 100_000
"""Where policies are compared, and frames they are compared over."""
OVER_CHANCE, OVER_UNTRAINED, CONTROL = 2.0, 1.5, 1.2
"""By how much they must differ."""
T = TypeVar("T")
_APART_S = 2.0
"""Between two starts: each looks for free ports."""


@dataclass(frozen=True)
class Case:
    """One training; ``control`` None has no judge."""

    name: str
    seed: int
    recipe: str
    control: str | None
    settings: tuple[str, ...]

    def run(self, folder: Path) -> tuple[Outcome, Path]:
        run = folder / f"{self.name.replace(' ', '_')}-{self.seed}"
        with nullcontext() if self.control is None else standin("--control", self.control) as judge:
            address = () if judge is None else (f"feedback.base_url={judge.url}",)
            outcome = train(self.recipe, run, f"run.seed={self.seed}", *address, *self.settings)
        print(
            f"{self.name:32} seed {self.seed}: success {outcome.success:6.1%}, {outcome.frames:,} frames, {outcome.labels} labels "
            f"({outcome.asked} asked), {outcome.seconds:.0f} s",
            flush=True,
        )
        return outcome, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.criteria", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("teach", "nethack", "steer"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=tuple(RECIPES), default=list(RECIPES), help="of teach")
    parser.add_argument("--without-controls", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side; each wants two cores")
    parser.add_argument("--profile", help="of every run, e.g. in_process")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of every run")
    asked = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        ok = {"teach": teach, "nethack": nethack, "steer": steer}[asked.what](asked, Path(folder))
    print("holds" if ok else "does not hold", flush=True)
    sys.exit(0 if ok else 1)


def teach(asked: argparse.Namespace, folder: Path) -> bool:
    """Each kind succeeds with every seed; the reward alone does not; no judge without information comes near."""
    kinds = [(kind, RECIPES[kind], "none", ()) for kind in asked.kinds]
    if not asked.without_controls:
        kinds += [("reward alone", "oni_chain", None, ALONE)]
        kinds += [(name, "oni_chain", control, ()) for name, control in CONTROLS.items()]
        kinds += [(f"{kind}, random labels", RECIPES[kind], "random", ()) for kind in asked.kinds if kind != "retrieval"]
    cases = [Case(name, seed, recipe, control, settings(asked, *own)) for seed in seeds(asked) for name, recipe, control, own in kinds]
    found: dict[str, list[float]] = {}
    for case, (outcome, _) in zip(cases, side_by_side(asked, [lambda case=case: case.run(folder) for case in cases]), strict=True):
        found.setdefault(case.name, []).append(outcome.success)
    for name, successes in found.items():
        print(f"{name:32} " + "  ".join(f"{success:6.1%}" for success in successes), flush=True)
    worst = min(success for kind in asked.kinds for success in found[kind])
    controls = [success for name in found.keys() - set(asked.kinds) for success in found[name]]
    return worst >= TAUGHT and all(s <= UNTAUGHT for s in found.get("reward alone", ())) and all(s < worst for s in controls)


def nethack(asked: argparse.Namespace, folder: Path) -> bool:
    """Taught by labels, it shows more of what they call good than chance does and than it did; taught by nothing it does not."""

    def rates(seed: int) -> dict[str, float]:
        _, run = Case("honest labels", seed, "oni_nethack", "none", settings(asked, *FREE)).run(folder)
        found = {"random actions": seen(ENV, ALIVE, seed), "untrained": seen(ENV, ALIVE, seed, run, untrained=True)}
        return told(seed, {name: goals["score"] for name, goals in (found | {"honest labels": seen(ENV, ALIVE, seed, run)}).items()})

    def control(seed: int) -> dict[str, float]:
        _, run = Case("all bad", seed, "oni_nethack", "zero", settings(asked, *FREE)).run(folder)
        return told(seed, {"all bad": seen(ENV, ALIVE, seed, run)["score"]})

    def told(seed: int, found: dict[str, float]) -> dict[str, float]:
        print(f"seed {seed}, good messages per 1,000 steps: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
        return found

    kinds = (rates,) if asked.without_controls else (rates, control)
    tasks = [lambda kind=kind, seed=seed: kind(seed) for seed in seeds(asked) for kind in kinds]
    results, ok = iter(side_by_side(asked, tasks)), True
    for _ in seeds(asked):
        found: dict[str, float] = {}
        for _ in kinds:
            found |= next(results)
        ok &= found["honest labels"] >= max(OVER_CHANCE * found["random actions"], OVER_UNTRAINED * found["untrained"])
        ok &= found.get("all bad", 0.0) <= CONTROL * found["random actions"]
    return ok


def steer(asked: argparse.Namespace, folder: Path) -> bool:
    """Two judges, two goals: under each, its own deeds are the more frequent ones, and more frequent than by chance."""

    def rates(goal: str | None, seed: int) -> dict[str, float]:
        run = None
        if goal is not None:
            own = settings(asked, f"feedback.goal={goal}", *FREE, *STEER)
            run = Case(f"judge wants {goal}", seed, "oni_nethack", "none", own).run(folder)[1]
        found = seen(ENV, ALIVE, seed, run, steps=GOALS_STEPS)
        who = f"judge wants {goal}" if goal else "random actions"
        print(
            f"seed {seed}, {who}, per 1,000 steps: the purse grows {found['purse']:.2f}, kills {found['kills']:.2f}; messages of gold "
            f"{found['gold']:.2f}, of combat {found['combat']:.2f}",
            flush=True,
        )
        return found

    cases = [(goal, seed) for seed in seeds(asked) for goal in (*GOALS, None)]
    found = dict(zip(cases, side_by_side(asked, [lambda case=case: rates(*case) for case in cases]), strict=True))

    def steered(goal: str, seed: int) -> bool:
        deed, mine = GOALS[goal], found[goal, seed]
        return mine[deed] > max(found[None, seed][deed], *(mine[other] for other in GOALS.values() if other != deed))

    return all(steered(goal, seed) for seed in seeds(asked) for goal in GOALS)


def side_by_side(asked: argparse.Namespace, tasks: list[Callable[[], T]]) -> list[T]:
    """Results in the order of ``tasks``."""

    def start(place: int, task: Callable[[], T]) -> T:
        time.sleep(_APART_S * (place if place < asked.jobs else 0))
        return task()

    with ThreadPoolExecutor(asked.jobs) as pool:
        return list(pool.map(start, range(len(tasks)), tasks))


def seeds(asked: argparse.Namespace) -> range:
    return range(asked.first_seed, asked.first_seed + asked.seeds)


def settings(asked: argparse.Namespace, *own: str) -> tuple[str, ...]:
    return *own, *asked.overrides, *(("--profile", asked.profile) if asked.profile else ())


main() if __name__ == "__main__" else None
