"""The reference learner: plain torch on one rank. Every other backend must make the same updates."""

from __future__ import annotations

from collections.abc import Callable

from rayrl.config.schema import Config
from rayrl.errors import ConfigError
from rayrl.learner.base import LearnerBase
from rayrl.learner.group import Alone
from rayrl.learner.networks import LanguageNetworks, Networks, set_up_torch
from rayrl.learner.trainable import TorchTrainable
from rayrl.protocols import Store


class TorchLearner(LearnerBase):
    """AdamW on float32 master weights, one device."""

    def __init__(
        self, config: Config, store: Store, *, build: Callable[[Config], Networks] = LanguageNetworks, transport: str = "store"
    ) -> None:
        """``build`` makes the networks, once torch is set up. Raises what it raises, and `ConfigError` for more than one rank."""
        if config.learner.ranks != 1:
            raise ConfigError(
                f"learner.ranks is {config.learner.ranks} with learner.backend torch", "use one rank, or the deepspeed backend"
            )
        device = set_up_torch(config)
        networks = build(config)
        optim = config.learner.optim
        super().__init__(
            config,
            store,
            networks,
            TorchTrainable(networks.policy, optim, device),
            TorchTrainable(networks.critic, optim, device) if networks.critic else None,
            Alone(),
            device,
            transport,
        )

    def close(self) -> None:
        """Nothing outlives the object."""
