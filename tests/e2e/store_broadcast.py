"""vLLM's NCCL transfer engine without NCCL: its broadcasts go through the rendezvous store of the same group, so that everything
around them runs on a machine without a GPU. Imported by the test and, as the worker extension, by vLLM's worker process."""

from __future__ import annotations

import contextlib

import torch
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer import nccl_engine

from rayrl.rollout.vllm_worker import WeightLoader


class StoreBroadcast:
    """What the transfer engine uses of a communicator."""

    def __init__(self, group: StatelessProcessGroup) -> None:
        self._group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream: None) -> None:
        sent = self._group.broadcast_obj(tensor.view(torch.uint8).numpy().tobytes() if self._group.rank == src else None, src)
        if self._group.rank != src:
            tensor.view(torch.uint8).copy_(torch.frombuffer(bytearray(sent), dtype=torch.uint8).view(tensor.view(torch.uint8).shape))

    def destroy(self) -> None:
        self._group.store = None


def of_worker(init_info, parallel_config) -> StoreBroadcast:
    rank = init_info.rank_offset + parallel_config.rank
    return StoreBroadcast(
        StatelessProcessGroup.create(init_info.master_address, init_info.master_port, rank=rank, world_size=init_info.world_size)
    )


def of_learner(meeting) -> StoreBroadcast:
    return StoreBroadcast(StatelessProcessGroup.create(meeting.master_address, meeting.master_port, rank=0, world_size=meeting.world_size))


nccl_engine.worker_init_process_group = of_worker
nccl_engine.open_trainer_endpoint = of_learner
nccl_engine.NCCLTrainerWeightTransferEngine._post_send_sync = lambda self: None
torch.cuda.current_stream = lambda *args: None
torch.cuda.synchronize = lambda *args: None
torch.cuda.stream = lambda *args: contextlib.nullcontext()


class Extension(WeightLoader):
    """Its import is what matters."""
