"""The reference learner: plain torch on one rank. Every other backend must make the same updates."""

from __future__ import annotations

from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.learner.base import LearnerBase
from rayrl.learner.group import Alone
from rayrl.learner.networks import build_networks, set_up_torch
from rayrl.learner.trainable import TorchTrainable
from rayrl.protocols import Store


class TorchLearner(LearnerBase):
    """AdamW on float32 master weights, one device."""

    def __init__(self, config: Config, store: Store, *, transport: str = "store") -> None:
        """Loads the policy (and the critic of PPO). Raises `ModelError`, and `ConfigError` for more than one rank."""
        if config.learner.ranks != 1:
            raise ConfigError(
                f"learner.ranks is {config.learner.ranks} with learner.backend torch", "use one rank, or the deepspeed backend"
            )
        device = set_up_torch(config)
        policy, critic, tokenizer = build_networks(config)
        optim = config.learner.optim
        super().__init__(
            config,
            store,
            TorchTrainable(policy, optim, device),
            TorchTrainable(critic, optim, device) if critic else None,
            Alone(),
            device,
            tokenizer,
            transport,
        )

    def close(self) -> None:
        """Nothing outlives the object."""
