"""The network of an environment agent: what it sees embedded, a GRU, and heads for the policy and one or two values.

Built from an environment's descriptor alone (`EnvSpec`): maps of categories are embedded, added up and convolved, numbers are scaled
and clipped, text is read byte by byte; everything arrives in the compact dtypes in which it travels. One class serves the learner
(whole fragments, with gradient) and the env worker (one step).

Legend of shapes: ``N`` observations, ``T`` steps, ``B`` environments side by side, ``F`` features, ``H`` recurrent state,
``A`` actions, ``V`` value heads (extrinsic first, then intrinsic).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from rayrl.agent_types import ArrayKind, ArraySpec, EnvSpec
from rayrl.config.schema import AgentNetworkConfig
from rayrl.models.gru import unroll_gru

Observations = Mapping[str, Tensor]
"""name -> [..., *spec.shape] in the dtypes of the spec."""
_LARGEST = 5.0
"""Scaled numbers are clipped to ± this (ONI)."""
_MOST_COMBINATIONS = 2**14
"""Of categories in the same cell, above which a table of all of them is no gain."""


@dataclass(frozen=True)
class Sizes:
    channels: int
    """Of the first convolution; the second has twice as many, the embeddings half as many."""
    features: int
    hidden: int

    @classmethod
    def of(cls, config: AgentNetworkConfig) -> Sizes:
        preset = {"oni": cls(64, 512, 512), "small": cls(16, 128, 160)}[config.size]
        return cls(config.channels or preset.channels, config.features or preset.features, config.hidden or preset.hidden)


class AgentNet(nn.Module):
    """With NetHack's observations the presets have 2.8 M (oni) and 0.24 M (small) parameters."""

    def __init__(self, spec: EnvSpec, sizes: Sizes, values: int = 1) -> None:
        super().__init__()
        self.spec, self.hidden = spec, sizes.hidden
        self.encoders = nn.ModuleDict(_encoders(spec, sizes))
        width = sum(encoder.width for encoder in self.encoders.values())
        self.input = nn.Linear(width, 3 * sizes.hidden)
        self.recurrent = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.policy = nn.Linear(sizes.hidden, spec.num_actions)
        self.value = nn.Linear(sizes.hidden, values)
        self.apply(_initialise)
        for head, gain in ((self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(head.weight, gain)

    @property
    def values(self) -> int:
        """V."""
        return self.value.out_features

    def initial_state(self, envs: int) -> Tensor:
        """float32[B, H] of zeros: where every episode starts."""
        return torch.zeros(envs, self.hidden)

    def forward(self, observations: Observations, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reads T steps of B environments.

        Args:
            observations: [T, B, ...].
            state: [B, H] before the first step.
            starts: bool[T, B], True where an episode starts: the state before that step is zero.

        Returns log-probabilities float32[T, B, A], values float32[T, B, V], and the states [T, B, H] after each step.
        """
        steps, envs = starts.shape
        flat = {name: array.flatten(0, 1) for name, array in observations.items()}
        gates = self.input(self._encode(flat)).view(steps, envs, -1)
        states = unroll_gru(gates, state, ~starts, self.recurrent.weight, self.recurrent.bias)
        logprobs, values = self.heads(states)
        return logprobs, values, states

    def step(self, observations: Observations, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of N environments: log-probabilities float32[N, A], values float32[N, V], state [N, H]."""
        after = self._advance(observations, state)
        return *self.heads(after), after

    def act(self, observations: Observations, state: Tensor) -> tuple[Tensor, Tensor]:
        """`step` without the values."""
        after = self._advance(observations, state)
        return self._logprobs(after), after

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self._logprobs(states), self.value(states).float()

    def _logprobs(self, states: Tensor) -> Tensor:
        return torch.log_softmax(self.policy(states).float(), dim=-1)

    def _advance(self, observations: Observations, state: Tensor) -> Tensor:
        """What `unroll_gru` does with one step, as one operation of torch: between two steps of a simulator each further one is dear."""
        own, recurrent = self.input, self.recurrent
        return torch.gru_cell(
            self._encode(observations), state.to(own.weight.dtype), own.weight, recurrent.weight, own.bias, recurrent.bias
        )

    def _encode(self, observations: Observations) -> Tensor:
        return torch.cat([encoder(observations) for encoder in self.encoders.values()], dim=-1)


class MapEncoder(nn.Module):
    """Category maps of one size: embeddings added up, two convolutions with stride 2, one dense layer."""

    def __init__(self, arrays: Mapping[str, ArraySpec], sizes: Sizes) -> None:
        super().__init__()
        self.names, c = tuple(arrays), sizes.channels
        self.embeddings = nn.ModuleDict({name: nn.Embedding(spec.categories, max(1, c // 2)) for name, spec in arrays.items()})
        self.first = nn.Conv2d(max(1, c // 2), c, 3, stride=2, padding=1)
        self.second = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        height, width = ((n + 3) // 4 for n in next(iter(arrays.values())).shape)
        self.dense = nn.Linear(2 * c * height * width, sizes.features)
        self.width = sizes.features
        self._joint = math.prod(spec.categories for spec in arrays.values()) <= _MOST_COMBINATIONS

    def forward(self, observations: Observations) -> Tensor:
        maps = [observations[name].int() for name in self.names]
        embed = self._embed_jointly if torch.is_grad_enabled() and maps[0].device.type == "cpu" and self._joint else self._embed
        x = embed(maps).permute(0, 3, 1, 2)  # NHWC in memory: what the convolutions like best
        x = fn.relu_(self.second(fn.relu_(self.first(x))))
        return fn.relu_(self.dense(x.flatten(1)))

    def _embed(self, maps: list[Tensor]) -> Tensor:
        """[N, height, width, c / 2]: the sum over the maps."""
        cells = self.embeddings[self.names[0]](maps[0])
        for name, ids in zip(self.names[1:], maps[1:], strict=True):
            cells += self.embeddings[name](ids)
        return cells

    def _embed_jointly(self, maps: list[Tensor]) -> Tensor:
        """The same by one look-up in a table of all combinations. Its gradient is one sum over the cells for all maps, and that of a
        `Tensor.gather` by rows takes an eighth (32 columns) to a tenth (8) of the time that the embeddings' take on a CPU."""
        ids, table = maps[0], self.embeddings[self.names[0]].weight
        for name, more in zip(self.names[1:], maps[1:], strict=True):
            weight = self.embeddings[name].weight
            ids, table = ids * len(weight) + more, (table.unsqueeze(1) + weight).flatten(0, 1)
        rows = ids.flatten().long().unsqueeze(1).expand(-1, table.shape[1])
        return table.gather(0, rows).view(*ids.shape, -1)


class CategoryEncoder(nn.Module):
    """Categories that form no map: one embedding per place."""

    def __init__(self, name: str, spec: ArraySpec, width: int) -> None:
        super().__init__()
        self.name, places = name, int(torch.Size(spec.shape).numel())
        self.embedding, self.width = nn.Embedding(spec.categories, width), width * places

    def forward(self, observations: Observations) -> Tensor:
        places = observations[self.name].reshape(-1, self.width // self.embedding.embedding_dim)
        return self.embedding(places.int()).flatten(1)


class NumberEncoder(nn.Module):
    """Scaled and clipped numbers through two dense layers, and as they are."""

    scale: Tensor

    def __init__(self, name: str, spec: ArraySpec, width: int) -> None:
        super().__init__()
        self.name, count = name, int(torch.Size(spec.shape).numel())
        scale = torch.tensor(spec.scale or (1.0,), dtype=torch.float32).expand(count).clone()
        self.register_buffer("scale", scale, persistent=False)
        self.layers = _two_dense(count, width)
        self.width = width + count

    def forward(self, observations: Observations) -> Tensor:
        numbers = observations[self.name].reshape(-1, self.scale.shape[0]) * self.scale
        numbers = numbers.clamp_(-_LARGEST, _LARGEST).to(self.layers[0].weight.dtype)
        return torch.cat([self.layers(numbers), numbers], dim=-1)


class TextEncoder(nn.Module):
    """Bytes as numbers in [0, 1) through two dense layers (ONI). What a text is worth is not for the policy to find out."""

    def __init__(self, name: str, spec: ArraySpec, width: int) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.layers = _two_dense(spec.shape[0], width)

    def forward(self, observations: Observations) -> Tensor:
        return self.layers(observations[self.name].to(self.layers[0].weight.dtype).div_(256))


def _encoders(spec: EnvSpec, sizes: Sizes) -> dict[str, Any]:
    """One per array; maps of one size share theirs. In the order of the names, so that a checkpoint does not depend on the spec's."""
    side = max(8, sizes.features // 4)
    maps: dict[tuple[int, ...], dict[str, ArraySpec]] = {}
    found: dict[str, Any] = {}
    for name, array in sorted(spec.observations.items()):
        if array.kind is ArrayKind.CATEGORIES and len(array.shape) == 2:
            maps.setdefault(array.shape, {})[name] = array
        elif array.kind is ArrayKind.CATEGORIES:
            found[name] = CategoryEncoder(name, array, 16)
        else:
            found[name] = (NumberEncoder if array.kind is ArrayKind.NUMBERS else TextEncoder)(name, array, side)
    return {"map_{}x{}".format(*shape): MapEncoder(arrays, sizes) for shape, arrays in maps.items()} | found


def _two_dense(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True))


def _initialise(module: nn.Module) -> None:
    """Orthogonal weights, zero biases (ONI)."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.orthogonal_(module.weight, 2**0.5 if isinstance(module, nn.Conv2d) else 1.0)
        nn.init.zeros_(module.bias)
