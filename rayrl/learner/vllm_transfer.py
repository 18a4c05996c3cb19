"""The learner's half of vLLM's own weight transfer engines: NCCL to engines on other GPUs, CUDA IPC to engines on the same ones.

Their trainer side would drive the engines by itself. Here the driver does (all engines load side by side, each between two of
its steps), so the client that vLLM is given only answers.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from rayrl.errors import WeightSyncError
from rayrl.sync import plan
from rayrl.types import WeightUpdate

try:
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
except ImportError:  # e.g. vLLM 0.26
    from rayrl.learner.vllm_transfer_older import (  # type: ignore[assignment]
        IPCTrainerInitInfo,
        IPCTrainerWeightTransferEngine,
        NCCLTrainerInitInfo,
        NCCLTrainerWeightTransferEngine,
    )


class PackedWeights(WeightSource):
    """The packed buckets in GPU memory, kept from round to round; iterating gives the tensors in the manifest's order, as views."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._layout = plan.Layout((), ())
        self._buckets: dict[int, Tensor] = {}

    def add(self, layout: plan.Layout, index: int, tensors: Mapping[str, Tensor]) -> None:
        self._layout, nbytes = layout, layout.bucket_nbytes[index]
        if index not in self._buckets or self._buckets[index].numel() != nbytes:
            self._buckets[index] = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        plan.fill(self._buckets[index], layout.in_bucket(index), tensors)

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(spec.name, getattr(torch, spec.dtype), spec.shape) for spec in self._layout.tensors]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((spec.name, plan.part(self._buckets[spec.bucket], spec)) for spec in self._layout.tensors)

    def settle(self) -> None:
        """Waits until every copy into the buckets is done, for readers on other streams and in other processes."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def on_host(self) -> list[plan.Bucket]:
        """Copies in host memory, in order."""
        return [self._buckets[index].cpu().numpy() for index in sorted(self._buckets)]

    def free(self) -> None:
        self._buckets.clear()


class Answers:
    """Stands where vLLM expects a client of its engines; keeps what would have been sent to them."""

    def __init__(self) -> None:
        self.update_info: dict[str, Any] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """The driver tells the engines."""

    def start_weight_update(self) -> None:
        """The driver tells the engines."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.update_info = update_info

    def finish_weight_update(self) -> None:
        """The driver tells the engines."""


class NcclCarrier:
    """Rank 0 broadcasts from a copy, in a thread: the next learner step may begin while engines still load.

    The thread is watched: what it raises, or that it does not end within ``limit_s`` seconds, is an error of the next round.
    """

    def __init__(self, rank: int, device: torch.device, *, buffer_bytes: int, limit_s: float, packed: bool = True) -> None:
        """``packed``: broadcast in chunks of ``buffer_bytes`` instead of tensor by tensor."""
        self._rank, self._device, self._buffer_bytes, self._limit_s, self._packed = rank, device, buffer_bytes, limit_s, packed
        self._weights = PackedWeights(device)
        self._engine: NCCLTrainerWeightTransferEngine | None = None
        self._sending: threading.Thread | None = None
        self._failure: BaseException | None = None

    def open(self, address: str, world_size: int) -> None:
        if self._rank != 0:
            return
        host, _, port = address.rpartition(":")
        meeting = NCCLTrainerInitInfo(
            master_address=host,
            master_port=int(port),
            world_size=world_size,
            packed=self._packed,
            packed_buffer_size_bytes=self._buffer_bytes,
            rank=0,
        )
        self._engine = NCCLTrainerWeightTransferEngine.trainer_init(meeting, client=Answers(), source=self._weights)

    def begin(self) -> None:
        if self._sending is None:
            return
        self._sending.join(self._limit_s)
        if self._sending.is_alive():
            raise WeightSyncError(
                f"the broadcast of the last weights did not end within {self._limit_s:.0f} s", "an engine left it: see logs/rollout-*.log"
            )
        self._sending = None
        if self._failure is not None:
            raise WeightSyncError(f"the broadcast of the last weights failed: {self._failure}", "see the learner's log") from self._failure

    def add(self, layout: plan.Layout, index: int, tensors: Mapping[str, Tensor]) -> None:
        if self._rank == 0:
            self._weights.add(layout, index, tensors)

    def announce(self, layout: plan.Layout, version: int) -> WeightUpdate:
        if self._rank == 0:
            self._weights.settle()
            self._sending = threading.Thread(target=self._send, name=f"broadcast-{version}", daemon=True)
            self._sending.start()
        return WeightUpdate(plan.manifest(layout, version, ()), (), transport="nccl")

    def release(self) -> None:
        """The buckets serve the next round too."""

    def abandon(self) -> list[plan.Bucket]:
        if self._engine is not None and self._engine.model_update_group is not None:
            self._engine.model_update_group.destroy()  # aborts a broadcast that waits for the engine that is gone
        return self._weights.on_host() if self._rank == 0 else []

    def _send(self) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            self._engine.send_weights()
        except BaseException as error:
            self._failure = error


class IpcCarrier:
    """Every rank packs a copy on its GPU and hands out handles to it; the engine on that GPU reads it in place."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self._weights, self._answers = PackedWeights(device), Answers()
        self._engine = IPCTrainerWeightTransferEngine.trainer_init(
            IPCTrainerInitInfo(rank=rank), client=self._answers, source=self._weights
        )

    def open(self, address: str, world_size: int) -> None:
        """Handles need no meeting."""

    def begin(self) -> None:
        """Engines have loaded before the learner is asked for anything else: colocated runs are synchronous."""

    def add(self, layout: plan.Layout, index: int, tensors: Mapping[str, Tensor]) -> None:
        self._weights.add(layout, index, tensors)

    def announce(self, layout: plan.Layout, version: int) -> WeightUpdate:
        self._weights.settle()
        self._engine.send_weights()  # gathers the handles of all ranks; rank 0 has them
        handles = pickle.dumps(self._answers.update_info.get("ipc_handles"))
        return WeightUpdate(plan.manifest(layout, version, ()), (), transport="ipc", handles=handles)

    def release(self) -> None:
        self._weights.free()

    def abandon(self) -> list[plan.Bucket]:
        return []
