"""A small character network for short texts: the reward networks of ONI (classifier and ranker), which read a game's message.

Source: facebookresearch/oni and motif. The trunk is the character CNN of Zhang, Zhao and LeCun 2015 at a smaller size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

LENGTH = 256
"""Bytes of a message; longer ones are cut, shorter ones padded with 0."""
_CHANNELS, _EMBEDDING, _FEATURES = 64, 32, 128


def encode_bytes(texts: Sequence[str | bytes], length: int = LENGTH) -> Tensor:
    """uint8[B, length]: latin-1 bytes; a character that latin-1 lacks is ``?``."""
    rows = np.zeros((len(texts), length), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        raw = (text if isinstance(text, bytes) else text.encode("latin-1", "replace"))[:length]
        row[: len(raw)] = np.frombuffer(raw, np.uint8)
    return torch.from_numpy(rows)


class CharTrunk(nn.Module):
    """uint8[B, 256] -> float32[B, 128]. Four pools of three leave 5 positions of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, _EMBEDDING)
        wide = [nn.Conv1d(_EMBEDDING, _CHANNELS, 7), nn.ReLU(), nn.MaxPool1d(3), nn.Conv1d(_CHANNELS, _CHANNELS, 7), nn.ReLU()]
        narrow = [layer for _ in range(4) for layer in (nn.Conv1d(_CHANNELS, _CHANNELS, 3), nn.ReLU())]
        self.convolutions = nn.Sequential(*wide, nn.MaxPool1d(3), *narrow, nn.MaxPool1d(3))
        self.features = nn.Linear(5 * _CHANNELS, _FEATURES)

    def forward(self, characters: Tensor) -> Tensor:
        embedded = self.embedding(characters.int()).transpose(1, 2)
        return self.features(self.convolutions(embedded).flatten(1)).relu()


class CharCnn(nn.Module):
    """`CharTrunk` with ONI's head for classes (``ranking=False``) or for scores (``ranking=True``).

    ``encode(texts)`` gives the keyword arguments of ``forward``, which returns float32[B, outputs].
    """

    def __init__(self, outputs: int, *, ranking: bool) -> None:
        super().__init__()
        self.outputs = outputs
        self.trunk = CharTrunk()
        if ranking:
            layers = [nn.Linear(_FEATURES, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU()]
        else:
            layers = [nn.Linear(_FEATURES, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.1)]
        self.head = nn.Sequential(*layers, nn.Linear(512, outputs))

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {"characters": encode_bytes(texts)}

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.trunk(characters))
