"""The DeepSpeed learner: ZeRO 0 to 3 over any number of ranks, bfloat16 or float32, gloo on CPUs and nccl on GPUs.

The engine runs with unmanaged accumulation: backward passes add up locally (ZeRO 2 and 3 must reduce as they go, because no
rank holds a whole gradient), and `engine.step()` is the boundary, so a step may have any number of micro-batches.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from datetime import timedelta
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from rayrl.config.schema import Config
from rayrl.learner.base import LearnerBase
from rayrl.learner.loading import compute_dtype
from rayrl.learner.networks import LanguageNetworks, Networks, set_up_torch
from rayrl.learner.trainable import MASTER, MOMENTS, Place, adamw, load_moments, moments_of
from rayrl.protocols import Store

# DeepSpeed looks for its accelerator when it is imported, and warns where it finds none.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

# Its shared-memory operation is for inference; compiling it at first use needs a compiler, and waits without limit for the lock
# of a process that died while it compiled.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")

LARGEST_BUCKET = 100_000_000
"""Most elements of one ZeRO collective."""


class DeepSpeedLearner(LearnerBase):
    """One rank of a data-parallel group; rank 0's host and a free port of it are where the ranks meet."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        rank: int,
        world_size: int,
        master_addr: str,
        master_port: int,
        build: Callable[[Config], Networks] = LanguageNetworks,
        transport: str = "store",
    ) -> None:
        """Joins the group and makes the networks (``build``). Waits for the other ranks, here and later, at most `deadlines.learn_s`."""
        device = set_up_torch(config)
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": "0",  # a rank sees its own accelerator only
            "LOCAL_SIZE": str(world_size),
            "MASTER_ADDR": master_addr,
            "MASTER_PORT": str(master_port),
        }
        deepspeed.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=config.deadlines.learn_s),
            verbose=False,
        )
        networks = build(config)
        super().__init__(
            config,
            store,
            networks,
            DeepSpeedTrainable(networks.policy, config, world_size),
            DeepSpeedTrainable(networks.critic, config, world_size) if networks.critic else None,
            DistributedGroup(rank, world_size, device),
            device,
            transport,
        )

    def close(self) -> None:
        """Leaves the process group."""
        torch.distributed.destroy_process_group()


class DistributedGroup:
    """Collectives of the default process group (`group.Group`)."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self._device = rank, size, device

    def sum(self, x: Tensor) -> Tensor:
        return self._reduce(x, torch.distributed.ReduceOp.SUM)

    def max(self, x: Tensor) -> Tensor:
        return self._reduce(x, torch.distributed.ReduceOp.MAX)

    def _reduce(self, x: Tensor, op: Any) -> Tensor:
        if self.size == 1:
            return x
        result = x.to(self._device, copy=True)
        torch.distributed.all_reduce(result, op)
        return result.cpu()


class DeepSpeedTrainable:
    """A network inside a DeepSpeed engine (`trainable.Trainable`)."""

    def __init__(self, net: nn.Module, config: Config, world_size: int) -> None:
        self.net = net
        self._params = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self._world_size = world_size
        self.before_update: Callable[[], None] = lambda: None
        self._optimizer = adamw(list(self._params.values()), config.learner.optim)
        settings = engine_settings(config, sum(p.numel() for p in self._params.values()))
        self._stage: int = settings["zero_optimization"]["stage"]
        clip = config.learner.optim.grad_clip
        self._norm: Tensor | None = None
        if self._stage == 0:
            self._optimizer.register_step_pre_hook(lambda *_: self._clip(clip or float("inf")))
        with redirect_stdout(StringIO()):  # it prints tables of memory that no setting turns off
            self.engine, *_ = deepspeed.initialize(model=net, optimizer=self._optimizer, config=settings)
        net.train()

    def __call__(self, *args: Any) -> Any:
        return self.engine(*args)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss * self._world_size)  # the engine averages over ranks, the trainer wants the sum

    def update(self, lr: float) -> float:
        self.before_update()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        return float(self._norm if self._stage == 0 else self.engine.get_global_grad_norm())

    def gathered(self, names: Sequence[str]) -> AbstractContextManager[None]:
        if self._stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters([self._params[name] for name in names])

    def masters(self) -> list[Tensor]:
        if self._stage == 3:
            return list(self.engine.optimizer.fp32_partitioned_groups_flat)
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def places(self) -> list[Place]:
        rank, found = torch.distributed.get_rank(), []
        for i, (name, p) in enumerate(self._params.items()):
            if self._stage == 0:  # every rank has everything
                if i % self._world_size == rank:
                    found.append(Place(name, tuple(p.shape), 0, p.numel(), i, 0))
            elif self._stage == 3:
                engine = self.engine.optimizer
                master, offset, size = engine.grad_position[engine.get_param_id(p)]
                numel = min(size, p.ds_numel - rank * size)  # the last rank's share is padded
                if numel > 0:
                    found.append(Place(name, tuple(p.ds_shape), rank * size, numel, master, offset))
            elif p._hp_mapping is not None:  # a share of it is ours
                within, at = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
                found.append(Place(name, tuple(p.shape), within.start, within.numel, p._hp_mapping.param_group_index, at.start))
        return found

    def moments(self) -> dict[str, list[Tensor | None]]:
        return moments_of(self._optimizer, self.masters())

    def state(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        stepped = len(self._optimizer.state) > 0
        for name, p in self._params.items():
            if self._stage == 0:
                moments = self._optimizer.state[p] if stepped else {}
                yield name, {MASTER: p.detach()} | {key: moments[key] for key in MOMENTS if stepped}
            else:
                moments = {key: safe_get_full_optimizer_state(p, key) for key in MOMENTS if stepped}
                yield name, {MASTER: safe_get_full_fp32_param(p)} | moments

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        if self._stage == 0:
            for name, p in self._params.items():
                load_moments(self._optimizer, p, state[name], updates)
                p.copy_(state[name][MASTER])
            return
        self._create_moments(updates)
        for name, p in self._params.items():
            master, moments = state[name][MASTER], {key: state[name][key] for key in MOMENTS if updates and key in state[name]}
            if self._stage == 3:
                safe_set_local_fp32_param(p, self._share(p, master))
                for key, value in moments.items():
                    safe_set_local_optimizer_state(p, self._share(p, value), key)
            else:
                safe_set_full_fp32_param(p, master)
                for key, value in moments.items():
                    safe_set_full_optimizer_state(p, value, key)
            with deepspeed.zero.GatheredParameters([p], modifier_rank=0, enabled=self._stage == 3):
                p.copy_(master)

    def _share(self, p: nn.Parameter, value: Tensor) -> Tensor:
        """This rank's ZeRO-3 part of a whole tensor, padded with zeros where the ranks do not divide it."""
        size = p.ds_tensor.numel()
        whole = nn.functional.pad(value.flatten(), (0, size * self._world_size - value.numel()))
        return whole.narrow(0, size * torch.distributed.get_rank(), size)

    def _create_moments(self, updates: int) -> None:
        """AdamW makes its moments in its first update; a fresh engine needs them before they can be set by name."""
        for master in self.masters():
            zero = torch.zeros_like(master)
            load_moments(self._optimizer, master, dict.fromkeys(MOMENTS, zero) if updates else {}, updates)
        if self._stage < 3:  # parameters find their slice of the flat moments through links that are made once
            self.engine.optimizer._hp_optimizer_states_linked = False
            if updates:
                self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    @torch.no_grad()
    def _clip(self, largest: float) -> None:
        self._norm = nn.utils.clip_grad_norm_(self._params.values(), largest)


def engine_settings(config: Config, parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a network with so many ``parameters``.

    In bfloat16 stage 0 runs as stage 1: DeepSpeed has no float32 gradient accumulation without partitioned optimiser states.
    On one rank the two are the same.
    """
    learner, bf16 = config.learner, compute_dtype(config.model) == torch.bfloat16
    stage = max(1, learner.zero_stage) if bf16 else learner.zero_stage
    bucket = min(parameters + parameters % 2, LARGEST_BUCKET)  # allocated in every backward pass, used or not
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if learner.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": learner.optim.grad_clip if stage else 0.0,
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",  # else ranks would add up rounded gradients in bfloat16
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
