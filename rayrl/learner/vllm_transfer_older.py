"""The trainer's side of weight transfer for a vLLM that offers it as functions, such as 0.26, in the shape that newer ones have.

`vllm_transfer.py` takes these names where vLLM does not have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerSendWeightsArgs, IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerSendWeightsArgs, NCCLWeightTransferEngine


@dataclass(frozen=True)
class IPCTrainerInitInfo:
    rank: int


class IPCTrainerWeightTransferEngine:
    """Hands the handles of all ranks to ``client`` on rank 0; the memory behind them is the source's to keep."""

    def __init__(self, client: Any, source: WeightSource) -> None:
        self._client, self._source = client, source

    @classmethod
    def trainer_init(cls, init_info: IPCTrainerInitInfo, *, client: Any, source: WeightSource) -> IPCTrainerWeightTransferEngine:
        return cls(client, source)

    def send_weights(self) -> None:
        send = lambda info: self._client.update_weights({"ipc_handles": info.ipc_handles})
        IPCWeightTransferEngine.trainer_send_weights(iter(self._source), IPCTrainerSendWeightsArgs(send_mode=send))


@dataclass(frozen=True)
class NCCLTrainerInitInfo:
    master_address: str
    master_port: int
    world_size: int
    packed: bool
    packed_buffer_size_bytes: int
    rank: int


class NCCLTrainerWeightTransferEngine:
    """Broadcasts from rank 0."""

    def __init__(self, info: NCCLTrainerInitInfo, source: WeightSource) -> None:
        self._info, self._source = info, source
        meeting = {"master_address": info.master_address, "master_port": info.master_port, "world_size": info.world_size}
        self.model_update_group: Any = NCCLWeightTransferEngine.trainer_init(meeting)

    @classmethod
    def trainer_init(cls, init_info: NCCLTrainerInitInfo, *, client: Any, source: WeightSource) -> NCCLTrainerWeightTransferEngine:
        return cls(init_info, source)

    def send_weights(self) -> None:
        arguments = NCCLTrainerSendWeightsArgs(
            group=self.model_update_group, packed=self._info.packed, packed_buffer_size_bytes=self._info.packed_buffer_size_bytes
        )
        NCCLWeightTransferEngine.trainer_send_weights(iter(self._source), arguments)
        torch.cuda.synchronize()
