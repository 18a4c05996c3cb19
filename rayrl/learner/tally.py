"""Sums of one step on their way to global metrics: every sum has a named denominator, and one division comes last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from rayrl.algorithms import metrics
from rayrl.learner.group import Group

Per = Literal["token", "first", "batch", "update", "compared", "one"]
"""What a sum is divided by: action tokens of all updates, of the first update, of the batch; the number of updates; pairs (or what
a loss over groups counts instead); nothing."""


class Tally:
    """Collects the metrics of micro-batches (`algorithms.metrics`: sums, and maxima whose key ends in ``_max``)."""

    def __init__(self) -> None:
        self._found: dict[tuple[Per, str], torch.Tensor] = {}
        self.counts: dict[Per, float] = {"token": 0.0, "first": 0.0, "batch": 0.0, "update": 0.0, "compared": 0.0, "one": 1.0}
        """The denominators, equal on every rank because they follow from metadata."""

    def add(self, per: Per, found: Mapping[str, torch.Tensor]) -> None:
        for key, value in found.items():
            new, old = value.detach().double(), self._found.get((per, key))  # stays on its device: reading it would wait for it
            if old is not None:
                new = torch.maximum(old, new) if metrics.is_maximum(key) else old + new
            self._found[per, key] = new

    def means(self, group: Group) -> dict[str, float]:
        """Over all ranks. Two collectives, whatever the number of metrics; every rank must have seen the same keys."""
        report: dict[str, float] = {}
        for maxima, combine in ((False, group.sum), (True, group.max)):
            keys = sorted(k for k in self._found if metrics.is_maximum(k[1]) == maxima)
            if not keys:
                continue
            own = torch.stack([self._found[k].cpu() for k in keys])
            for (per, key), value in zip(keys, combine(own).tolist(), strict=True):
                report[key] = value if maxima else value / max(self.counts[per], 1.0)
        return report
