"""Several learner ranks as threads of one process: the collectives of a real group, the summed gradients of a real backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from rayrl.learner.networks import LanguageNetworks
from rayrl.learner.trainable import TorchTrainable

LIMIT_S = 60


class Meeting:
    """Where ``size`` threads exchange one tensor each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def exchange(self, rank: int, part: Any) -> list[Any]:
        self._parts[rank] = part
        self._barrier.wait(LIMIT_S)
        parts = list(self._parts)
        self._barrier.wait(LIMIT_S)
        return parts


class ThreadGroup:
    """`learner.group.Group` over a meeting."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self._meeting = rank, meeting.size, meeting

    def sum(self, x: Tensor) -> Tensor:
        return torch.stack(self._meeting.exchange(self.rank, x)).sum(0)

    def max(self, x: Tensor) -> Tensor:
        return torch.stack(self._meeting.exchange(self.rank, x)).amax(0)


class SummedTrainable(TorchTrainable):
    """Adds the gradients of all ranks before it clips and steps."""

    group: ThreadGroup

    def update(self, lr: float) -> float:
        for p in self._masters.values():
            p.grad = self.group.sum(p.grad if p.grad is not None else torch.zeros_like(p))
        return super().update(lr)


def train_ranks(
    config: Any, store: Any, batches: list, ranks: int, reference: Callable | None = None
) -> tuple[dict, list[dict[str, float]]]:
    """Weights and reports of rank 0 after ``batches``; raises unless every rank reports and holds the same."""
    meeting = Meeting(ranks)
    built = []
    for _ in range(ranks):  # one after the other: loading a model is not safe in threads
        torch.manual_seed(config.run.seed)
        built.append(LanguageNetworks(config))

    def run(rank: int):
        group, networks = ThreadGroup(rank, meeting), built[rank]
        policy = networks.policy
        nets = [SummedTrainable(net, config.learner.optim, torch.device("cpu")) if net else None for net in (policy, networks.critic)]
        for net in nets:
            if net:
                net.group = group
        trainer = networks.trainer(config, store, nets[0], nets[1], None, group, torch.device("cpu"))
        reports = [trainer.step(batch, reference(batch) if reference else None) for batch in batches]
        return {name: p.detach().clone() for name, p in policy.named_parameters()}, reports, trainer.state

    with ThreadPoolExecutor(ranks) as pool:
        results = list(pool.map(run, range(ranks), timeout=4 * LIMIT_S))
    for weights, reports, state in results[1:]:
        assert reports == results[0][1] and state == results[0][2]
        assert all(torch.equal(weights[name], w) for name, w in results[0][0].items())
    return results[0][0], results[0][1]
