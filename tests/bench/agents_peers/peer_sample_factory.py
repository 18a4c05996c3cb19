"""Sample Factory 2.1 (APPO, asynchronous, two rollout workers) on the same game and network.

python tests/bench/agents_peers/run.py sample_factory --size oni --seconds 60
"""

from __future__ import annotations

import sys
import tempfile

from game import SCALES, Game
from network import SIZES, Encoder
from outcome import FRAMES_PER_UPDATE, ROLLOUT, Meter, arguments
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.encoder import Encoder as SampleFactoryEncoder
from sample_factory.train import make_runner

WORKERS, ENVS = 2, 16


def make_game(name, cfg, env_config, render_mode=None) -> Game:
    return Game()


class NetHackEncoder(SampleFactoryEncoder):
    def __init__(self, cfg, obs_space) -> None:
        super().__init__(cfg)
        self.inner = Encoder(cfg.network, SCALES)

    def forward(self, obs_dict):
        return self.inner(**{name: obs_dict[name] for name in ("chars", "colors", "stats", "message")})

    def get_out_size(self) -> int:
        return self.inner.width


class Watch(AlgoObserver):
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_training_step(self, runner, training_iteration_since_resume: int) -> None:
        if self._meter.update(training_iteration_since_resume * FRAMES_PER_UPDATE):
            runner.cfg.train_for_env_steps = 0  # ends the run


def main() -> int:
    asked = arguments(__doc__)
    register_env("nethack", make_game)
    global_model_factory().register_encoder_factory(NetHackEncoder)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "algo": "APPO", "env": "nethack", "experiment": "peer", "train_dir": folder, "device": "cpu", "seed": 0,
            "num_workers": WORKERS, "num_envs_per_worker": ENVS, "worker_num_splits": 2, "num_policies": 1,
            "rollout": ROLLOUT, "recurrence": ROLLOUT, "batch_size": FRAMES_PER_UPDATE, "num_batches_per_epoch": 1, "num_epochs": 1,
            "use_rnn": True, "rnn_type": "gru", "rnn_size": SIZES[asked.size][2], "rnn_num_layers": 1,
            "with_vtrace": False, "normalize_input": False, "normalize_returns": False, "async_rl": True, "serial_mode": False,
            "learning_rate": 1e-4, "adam_eps": 1e-6, "gamma": 0.99, "exploration_loss_coeff": 0.003, "ppo_clip_ratio": 0.1,
            "max_grad_norm": 4.0, "with_wandb": False, "save_every_sec": 3600, "train_for_env_steps": 10**10,
        }  # fmt: skip
        parser, _ = parse_sf_args([f"--{name}={value}" for name, value in options.items()])
        parser.add_argument("--network", default=asked.size)
        cfg = parse_full_cfg(parser, [f"--{name}={value}" for name, value in options.items()])
        cfg, runner = make_runner(cfg)
        meter = Meter("sample_factory", asked)
        runner.register_observer(Watch(meter))
        status = runner.init()
        if status == ExperimentStatus.SUCCESS:
            status = runner.run()
    from sample_factory.model.actor_critic import create_actor_critic

    game = Game()
    net = create_actor_critic(cfg, game.observation_space, game.action_space)
    meter.report(sum(p.numel() for p in net.parameters()), workers=WORKERS, envs_per_worker=ENVS)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
