"""What a policy lives through: how often an episode shows a message, for the first time, that a goal calls good; and what it does by
itself: how often its purse grows (`purse`) and how many monsters it kills (`kills`), as the game counts them, pets left out.

    python -m tests.criteria.playing nethack_reward_free --frames 50000                 # actions drawn evenly
    python -m tests.criteria.playing nethack_reward_free --run RUN_DIR                  # what a run exported
    python -m tests.criteria.playing nethack_reward_free --run RUN_DIR --untrained      # its network before the first step

The goals' rules are the stand-in judge's. One process plays once, because NetHack is global to its process; prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from rayrl.agent_types import EnvSpec
from rayrl.config.loading import reload
from rayrl.envs.nethack import view
from rayrl.envs.nethack.tasks import NetHack
from rayrl.envs.registry import agent_env_factory
from rayrl.envs.vector import VectorSampler
from rayrl.learner.intrinsic import NO_MESSAGE
from rayrl.models.agent import AgentNet, Sizes
from rayrl.rollout.agent_engine import AgentEngine
from rayrl.rollout.agent_policy import LocalPolicy
from tests.standin import rules

ENVS = 16
DEEDS = ("purse", "kills")
Act = Callable[[VectorSampler, np.ndarray], np.ndarray]


def seen(
    env: str, frames: int, seed: int = 0, run: Path | None = None, untrained: bool = False, steps: int | None = None
) -> dict[str, float]:
    """Good messages by goal, each counted once per episode, and `DEEDS`, all per 1,000 steps; played in a process of its own. Raises
    `RuntimeError` with the end of what it said where it fails."""
    command = [sys.executable, "-m", "tests.criteria.playing", env, "--frames", str(frames), "--seed", str(seed)]
    command += ["--run", str(run)] if run else []
    command += ["--untrained"] if untrained else []
    command += ["--steps", str(steps)] if steps else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def play(env: str, frames: int, seed: int, make: Callable[[EnvSpec], Act], steps: int | None = None) -> dict[str, float]:
    torch.set_num_threads(1)
    factory = agent_env_factory(env, {"max_episode_steps": steps} if steps else {})
    games: list[NetHack] = []
    sampler = VectorSampler(lambda: games.append(factory()) or games[-1], ENVS, seed)
    good = dict.fromkeys((*rules.GOALS, *DEEDS), 0)
    sampler.reset()
    worth: dict[int, list[str]] = {NO_MESSAGE: []}
    act, ended = make(sampler.spec), np.zeros(ENVS, bool)
    for _ in range(frames // ENVS):
        for key, text in sampler.take_texts().items():
            worth[key] = [goal for goal in rules.GOALS if rules.is_good(text.decode("latin-1"), goal)]
        for key in sampler.message_hash[sampler.message_count == 1].tolist():
            for goal in worth[key]:
                good[goal] += 1
        before = _purses_and_kills(games)
        result = sampler.step(act(sampler, ended))
        ended = result.terminated | result.truncated
        grown = np.maximum(_purses_and_kills(games) - before, 0)[:, ~ended]
        good["purse"] += int((grown[0] > 0).sum())
        good["kills"] += int(grown[1].sum())
    sampler.close()
    return {goal: 1000 * count / frames for goal, count in good.items()}


def _purses_and_kills(games: list[NetHack]) -> np.ndarray:
    """int64[2, K]."""
    return np.array([[game.view.stats[view.GOLD] for game in games], [game.game.kills for game in games]], np.int64)


def evenly(seed: int) -> Callable[[EnvSpec], Act]:
    rng = np.random.default_rng(seed)
    return lambda spec: lambda sampler, ended: rng.integers(spec.num_actions, size=ENVS)


def as_run(folder: Path, seed: int, untrained: bool) -> Callable[[EnvSpec], Act]:
    """The policy of a run's folder, sampled as in training."""
    agent = reload(folder).config.agent

    def make(spec: EnvSpec) -> Act:
        torch.manual_seed(seed)
        net = AgentNet(spec, Sizes.of(agent.network), values=2 if agent.separate_values else 1)
        if not untrained:
            net.load_state_dict(load_file(folder / "policy" / "model.safetensors"))
        engine, state = AgentEngine(LocalPolicy(net), seed), net.initial_state(ENVS)

        def act(sampler: VectorSampler, ended: np.ndarray) -> np.ndarray:
            nonlocal state
            state = torch.where(torch.from_numpy(ended)[:, None], 0.0, state)
            choice = engine.act({name: torch.from_numpy(array) for name, array in sampler.observations().items()}, state)
            state = choice.state
            return choice.actions

        return act

    return make


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.criteria.playing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--steps", type=int, help="longest episode; default the environment's")
    parser.add_argument("--untrained", action="store_true")
    asked = parser.parse_args()
    make = evenly(asked.seed) if asked.run is None else as_run(asked.run, asked.seed, asked.untrained)
    print(json.dumps(play(asked.env, asked.frames, asked.seed, make, asked.steps)), flush=True)


main() if __name__ == "__main__" else None
