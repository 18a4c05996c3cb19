"""The network that all peers train: the layers and sizes of rayrl's agent network (ONI's shape), written with plain torch modules."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

SIZES = {"oni": (64, 512, 512), "small": (16, 128, 160)}
"""Channels of the first convolution, features of the map, recurrent state: 2.8 M and 0.24 M parameters."""
ACTIONS, CROP, STATS, MESSAGE = 28, 12, 27, 256


class Encoder(nn.Module):
    """Observations in their compact dtypes -> float32[N, width]. ``scales`` are the factors of the status line."""

    def __init__(self, size: str, scales: tuple[float, ...]) -> None:
        super().__init__()
        channels, features, _ = SIZES[size]
        side = max(8, features // 4)
        self.chars, self.colors = nn.Embedding(256, channels // 2), nn.Embedding(16, channels // 2)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(2 * channels * 9, features), nn.ReLU(),
        )  # fmt: skip
        self.stats = nn.Sequential(nn.Linear(STATS, side), nn.ReLU(), nn.Linear(side, side), nn.ReLU())
        self.message = nn.Sequential(nn.Linear(MESSAGE, side), nn.ReLU(), nn.Linear(side, side), nn.ReLU())
        self.register_buffer("scales", torch.tensor(scales))
        self.width = features + side + STATS + side

    def forward(self, chars: Tensor, colors: Tensor, stats: Tensor, message: Tensor) -> Tensor:
        cells = self.chars(chars.int()) + self.colors(colors.int())
        numbers = (stats.float() * self.scales).clamp(-5, 5)
        parts = [self.convolutions(cells.permute(0, 3, 1, 2)), self.stats(numbers), numbers, self.message(message.float() / 256)]
        return torch.cat(parts, dim=-1)


class Net(nn.Module):
    """Encoder, GRU, policy and value."""

    def __init__(self, size: str, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.hidden = SIZES[size][2]
        self.encoder = Encoder(size, scales)
        self.core = nn.GRU(self.encoder.width, self.hidden)
        self.policy, self.value = nn.Linear(self.hidden, ACTIONS), nn.Linear(self.hidden, 1)

    def step(self, observations: dict[str, Tensor], state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of N environments: logits, values, state [N, H]."""
        output, state = self.core(self.encoder(**observations).unsqueeze(0), state.unsqueeze(0))
        return self.policy(output[0]), self.value(output[0]).squeeze(-1), state[0]

    def unroll(self, observations: dict[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """T steps of N environments, [T, N, ...]: logits and values. A state is zeroed where ``starts[t]``."""
        steps, envs = starts.shape
        features = self.encoder(**{k: v.flatten(0, 1) for k, v in observations.items()}).view(steps, envs, -1)
        # cuDNN-style kernels run over whole stretches between episode starts.
        borders = [0, *[t for t in range(1, steps) if starts[t].any()], steps]
        outputs = []
        for start, end in pairwise(borders):
            state = state * (~starts[start]).unsqueeze(-1)
            output, last = self.core(features[start:end], state.unsqueeze(0))
            outputs.append(output)
            state = last[0]
        states = torch.cat(outputs)
        return self.policy(states), self.value(states).squeeze(-1)
