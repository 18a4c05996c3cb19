"""RLlib 2.60 IMPALA (new API stack, two env runners, one learner) on the same game and network.

python tests/bench/agents_peers/run.py rllib --size oni --seconds 60
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import ray
from game import SCALES, Game
from network import ACTIONS, SIZES, Encoder
from outcome import FRAMES_PER_UPDATE, ROLLOUT, Meter, arguments
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

WORKERS, ENVS = 2, 16


class NetHackModule(TorchRLModule, ValueFunctionAPI):
    def setup(self) -> None:
        size = self.model_config["size"]
        self.hidden = SIZES[size][2]
        self.encoder = Encoder(size, SCALES)
        self.core = nn.GRU(self.encoder.width, self.hidden, batch_first=True)
        self.policy, self.value = nn.Linear(self.hidden, ACTIONS), nn.Linear(self.hidden, 1)

    def get_initial_state(self):
        return {"h": np.zeros((self.hidden,), np.float32)}

    def _embed(self, batch):
        observations = batch[Columns.OBS]
        rows, steps = observations["chars"].shape[:2]
        features = self.encoder(**{n: observations[n].flatten(0, 1) for n in ("chars", "colors", "stats", "message")})
        states, last = self.core(features.view(rows, steps, -1), batch[Columns.STATE_IN]["h"].unsqueeze(0))
        return states, {"h": last.squeeze(0)}

    def _forward(self, batch, **kwargs):
        states, after = self._embed(batch)
        return {Columns.ACTION_DIST_INPUTS: self.policy(states), Columns.STATE_OUT: after}

    def _forward_train(self, batch, **kwargs):
        states, after = self._embed(batch)
        return {Columns.ACTION_DIST_INPUTS: self.policy(states), Columns.STATE_OUT: after, Columns.EMBEDDINGS: states}

    def compute_values(self, batch, embeddings=None):
        if embeddings is None:
            embeddings, _ = self._embed(batch)
        return self.value(embeddings).squeeze(-1)


def main() -> None:
    asked = arguments(__doc__)
    here = str(Path(__file__).resolve().parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=400 * 2**20, runtime_env={"env_vars": {"PYTHONPATH": path}})
    config = (
        IMPALAConfig()
        .environment(Game)
        .env_runners(
            num_env_runners=WORKERS,
            num_envs_per_env_runner=ENVS,
            rollout_fragment_length=ROLLOUT,
            gym_env_vectorize_mode="sync",
        )
        .learners(num_learners=1)
        .training(
            train_batch_size_per_learner=FRAMES_PER_UPDATE, lr=1e-4, gamma=0.99, entropy_coeff=0.003, vf_loss_coeff=0.5, grad_clip=4.0
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=NetHackModule, model_config={"size": asked.size, "max_seq_len": ROLLOUT}))
        .reporting(min_time_s_per_iteration=1)
    )
    algorithm = config.build_algo()
    meter, frames = Meter("rllib", asked), 0
    while not meter.update(frames):
        learners = algorithm.train().get("learners", {})
        frames = int(learners.get("__all_modules__", {}).get("num_env_steps_trained_lifetime", frames))
    game, settings = Game(), {"size": asked.size, "max_seq_len": ROLLOUT}
    module = NetHackModule(observation_space=game.observation_space, action_space=game.action_space, model_config=settings)
    algorithm.stop()
    ray.shutdown()
    meter.report(sum(p.numel() for p in module.parameters()), workers=WORKERS, envs_per_worker=ENVS)


if __name__ == "__main__":
    main()
