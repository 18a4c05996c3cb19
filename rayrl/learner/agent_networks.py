"""An environment agent in the learner: its network, what engines get of it, and the proof that they compute with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rayrl.agent_types import EnvSpec
from rayrl.config.schema import Config
from rayrl.learner.agent_trainer import AgentTrainer
from rayrl.learner.intrinsic import Intrinsic
from rayrl.models.agent import AgentNet, Observations, Sizes
from rayrl.models.agent_canary import canary_logprobs
from rayrl.models.loading import torch_dtype
from rayrl.types import FloatArray, IntArray


class AgentPolicy(nn.Module):
    """The network under autocast where the learner computes in bfloat16; its parameters stay float32."""

    def __init__(self, model: AgentNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self._dtype = model, dtype

    def forward(self, observations: Observations, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(state.device.type, self._dtype, enabled=self._dtype != torch.float32):
            return self.model(observations, state, starts)


class AgentNetworks:
    """Fulfils `networks.Networks`."""

    critic = None
    wire_dtype = torch.float32

    def __init__(self, config: Config, spec: EnvSpec, intrinsic: Intrinsic) -> None:
        """``spec``: of the environment, as its workers see it."""
        self._spec, self._intrinsic = spec, intrinsic
        net = AgentNet(spec, Sizes.of(config.agent.network), values=2 if config.agent.separate_values else 1)
        self.policy = AgentPolicy(net, torch_dtype(config.model.dtype))

    def wire(self) -> dict[str, Tensor]:
        return dict(self.policy.model.named_parameters())

    @torch.no_grad()
    def canary(self, token_ids: IntArray, device: torch.device) -> FloatArray:
        return canary_logprobs(self.policy.model, token_ids, device)

    def trainer(self, *parts: Any) -> AgentTrainer:
        return AgentTrainer(*parts, self._intrinsic)

    def write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """``model.safetensors`` and, in ``agent.json``, what the environment shows."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
        (folder / "agent.json").write_text(json.dumps({"spec": asdict(self._spec)}, indent=1) + "\n")
