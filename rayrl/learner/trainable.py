"""What the trainer needs of a network that learns, and the plain-torch form of it.

Gradients of all micro-batches of all ranks are *summed*: the trainer divides by global denominators, nobody averages. Weights
have a float32 master copy when they compute in another dtype; gradients are accumulated in float32 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rayrl.config.schema import OptimConfig

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")
"""Names of the float32 tensors that belong to one parameter."""


class Place(NamedTuple):
    """Where a rank holds elements ``[start, start + numel)`` of a flattened parameter: in its ``masters()[master]``, from ``offset`` on."""

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    master: int
    offset: int


class Trainable(Protocol):
    """A network with its optimiser. All ranks get the same calls in the same order."""

    net: nn.Module
    before_update: Callable[[], None]
    """Called before `update` changes anything."""

    def __call__(self, *args: Any) -> Any:
        """Forward pass of ``net``."""

    def backward(self, loss: Tensor) -> None:
        """Adds this rank's gradient of ``loss`` to the sum."""

    def update(self, lr: float) -> float:
        """Clips, applies one AdamW update, forgets the gradients. Returns the global gradient norm before clipping."""

    def gathered(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Inside it the named parameters of ``net`` are whole on every rank."""

    def masters(self) -> list[Tensor]:
        """The float32 tensors that this rank's optimiser updates, in place."""

    def places(self) -> list[Place]:
        """What of the masters this rank saves; all ranks together save every element once. No collective call."""

    def moments(self) -> dict[str, list[Tensor | None]]:
        """By name of `MOMENTS`: one tensor for each of `masters`, None for one that was never updated."""

    def state(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """Per parameter of ``net`` the whole `MASTER` and, once an update was made, the whole `MOMENTS`; on every rank."""

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Inverse of `state`; ``updates`` is the optimiser's step count."""


def adamw(parameters: Sequence[Tensor], optim: OptimConfig) -> torch.optim.AdamW:
    """The optimiser of every backend (fused kernel, on CPU too). Its learning rate is set before each update."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=tuple(optim.betas), eps=optim.eps, weight_decay=optim.weight_decay, fused=True)


class TorchTrainable:
    """Plain torch, one rank: the reference that other backends are tested against."""

    def __init__(self, net: nn.Module, optim: OptimConfig, device: torch.device) -> None:
        self.net = net.to(device).train()
        self._params = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self._masters = {name: p if p.dtype == torch.float32 else _master(p) for name, p in self._params.items()}
        self._clip = optim.grad_clip
        self.before_update: Callable[[], None] = lambda: None
        self._optimizer = adamw(list(self._masters.values()), optim)

    def __call__(self, *args: Any) -> Any:
        return self.net(*args)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self, lr: float) -> float:
        self.before_update()
        norm = torch.nn.utils.clip_grad_norm_(self._masters.values(), self._clip or float("inf"))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._copy_masters()
        return float(norm)

    def gathered(self, names: Sequence[str]) -> AbstractContextManager[None]:
        return nullcontext()

    def masters(self) -> list[Tensor]:
        return list(self._masters.values())

    def places(self) -> list[Place]:
        return [Place(name, tuple(m.shape), 0, m.numel(), i, 0) for i, (name, m) in enumerate(self._masters.items())]

    def moments(self) -> dict[str, list[Tensor | None]]:
        return moments_of(self._optimizer, self.masters())

    def state(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        for name, master in self._masters.items():
            moments = self._optimizer.state[master]
            yield name, {MASTER: master.detach()} | {key: moments[key] for key in MOMENTS if key in moments}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        for name, master in self._masters.items():
            load_moments(self._optimizer, master, state[name], updates)
            master.detach().copy_(state[name][MASTER])
        self._copy_masters()

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, p in self._params.items():
            if p is not self._masters[name]:
                p.copy_(self._masters[name])


def load_moments(optimizer: torch.optim.Optimizer, master: Tensor, tensors: Mapping[str, Tensor], updates: int) -> None:
    """Gives ``master`` the AdamW moments of ``tensors``; without any, those of an optimiser that made no update."""
    if any(key not in tensors for key in MOMENTS):
        optimizer.state.pop(master, None)
        return
    state = optimizer.state[master]
    state["step"] = torch.tensor(float(updates), device=master.device)
    for key in MOMENTS:
        state[key] = tensors[key].to(device=master.device, dtype=torch.float32).clone()


def moments_of(optimizer: torch.optim.Optimizer, masters: Sequence[Tensor]) -> dict[str, list[Tensor | None]]:
    """See `Trainable.moments`."""
    return {key: [optimizer.state.get(master, {}).get(key) for master in masters] for key in MOMENTS}


def _master(parameter: nn.Parameter) -> Tensor:
    """A float32 copy that collects the gradients of ``parameter``, each micro-batch's added in float32."""
    master = parameter.detach().float().clone().requires_grad_(True)

    def accumulate(p: nn.Parameter) -> None:
        gradient = p.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        p.grad = None

    parameter.register_post_accumulate_grad_hook(accumulate)
    return master
