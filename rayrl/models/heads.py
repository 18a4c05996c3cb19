"""A scalar head on a language-model backbone: the value model of PPO."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ValueNet(nn.Module):
    """The backbone of a causal language model with one linear output: the expected return of each prefix.

    The head starts at zero, so the first advantages are the returns themselves and not the noise of an untrained value.
    """

    def __init__(self, backbone: nn.Module, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1, bias=True, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_policy(cls, model: Any) -> ValueNet:
        """Takes over the backbone of ``model`` (a Hugging Face causal language model, not shared with a policy that trains)."""
        return cls(model.get_decoder(), model.config.hidden_size, next(model.parameters()).dtype)

    def forward(self, inputs: Any) -> torch.Tensor:
        """float32[A]: the value of the prefix before each action token; ``inputs`` as for the policy (its ``index`` selects)."""
        hidden = self.backbone(**inputs.model_kwargs()).last_hidden_state
        return self.head(hidden.flatten(0, 1).index_select(0, inputs.index)).squeeze(-1).float()
