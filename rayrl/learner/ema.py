"""An exponential moving average of the weights, kept beside the optimiser's own float32 tensors and sharded as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rayrl.learner.trainable import Trainable


class Ema:
    """``average <- decay * average + (1 - decay) * weights`` after every update; it starts at the initial weights."""

    def __init__(self, trainable: Trainable, decay: float) -> None:
        self._trainable, self._decay = trainable, decay
        self._average = [m.detach().clone() for m in trainable.masters()]

    @torch.no_grad()
    def update(self) -> None:
        for average, master in zip(self._average, self._trainable.masters(), strict=True):
            average.lerp_(master, 1 - self._decay)

    def averages(self) -> list[torch.Tensor]:
        """One for each of the masters; changed in place by `update`."""
        return self._average

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside it the master weights are the average: whatever reads or loads them reads or loads the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, master in zip(self._average, self._trainable.masters(), strict=True):
            kept = average.clone()
            average.copy_(master)
            master.copy_(kept)
