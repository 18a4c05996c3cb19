"""Dropout in front of the last layer of a network that scores: while it learns, and as thinned networks that stay the same.

Monte-Carlo dropout (Gal and Ghahramani 2016, arXiv 1506.02142) takes the networks that dropout leaves for members of an ensemble. Here
pass k is one mask, drawn from (seed, k) alone and the same for all texts: two texts are compared by the same network, and the same
text gets the same numbers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadDropout:
    """Attached to the last linear layer of ``network``; its state is one probability and no tensor, so checkpoints do not change."""

    def __init__(self, network: nn.Module, probability: float, seed: int) -> None:
        """Raises `ValueError` for a network without a linear layer."""
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError("dropout goes before the last linear layer, and the network has none")
        self._probability, self._seed, self._thinned = probability, seed, -1
        linear[-1].register_forward_pre_hook(self._drop)

    @contextmanager
    def thinned(self, index: int) -> Iterator[None]:
        """Inside it the network is the thinned one of this index."""
        self._thinned = index
        try:
            yield
        finally:
            self._thinned = -1

    def _drop(self, layer: nn.Module, inputs: Any) -> tuple[Tensor]:
        (x,) = inputs
        if self._thinned < 0:
            return (F.dropout(x, self._probability, layer.training),)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._thinned)
        kept = torch.rand(x.shape[-1], generator=generator) >= self._probability
        return (x * kept.to(x) / (1 - self._probability),)
