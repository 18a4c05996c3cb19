"""What every learner backend shares: step, weight export, checkpoints. A backend only decides how the networks are trained."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch
from torch import Tensor

from rayrl.config.schema import Config
from rayrl.errors import StorageError
from rayrl.learner import snapshot
from rayrl.learner.carriers import StoreCarrier, build_carrier
from rayrl.learner.ema import Ema
from rayrl.learner.group import Group
from rayrl.learner.networks import Networks
from rayrl.learner.saving import Part, Saver
from rayrl.learner.trainable import MASTER, Trainable
from rayrl.protocols import Store
from rayrl.sync import plan as weight_plan
from rayrl.types import FloatArray, IntArray, LearnBatch, WeightUpdate


class LearnerBase:
    """One rank of the learner group (`protocols.Learner`). All ranks get the same calls in the same order."""

    def __init__(
        self,
        config: Config,
        store: Store,
        networks: Networks,
        policy: Trainable,
        critic: Trainable | None,
        group: Group,
        device: torch.device,
        transport: str = "store",
    ) -> None:
        """``transport``: how exported weights travel, see `carriers.build_carrier`."""
        self._config, self._networks, self._group, self._device = config, networks, group, device
        self._store, self._carrier = store, build_carrier(config, transport, store, group, device)
        self._exported: WeightUpdate | None = None
        self._policy, self._critic = policy, critic
        self._ema = Ema(policy, config.learner.ema_decay) if config.learner.ema_decay > 0 else None
        self._trainer = networks.trainer(config, store, policy, critic, self._ema, group, device)
        self._saver = Saver(group.rank, group.size, device, config.deadlines.save_s)
        for trainable in (policy, critic):
            if trainable is not None:
                trainable.before_update = self._saver.hold
        self._busy_s = 0.0

    def step(self, batch: LearnBatch, reference: Sequence[Any] | None) -> Mapping[str, float]:
        """Trains on ``batch``; ``reference`` holds one payload per group, or None without a reference model."""
        begin = time.perf_counter()
        self._carrier.release()
        report = self._trainer.step(batch, reference)
        elapsed = time.perf_counter() - begin
        self._busy_s += elapsed
        unit = self._trainer.unit
        return report | {f"learner/{unit}_per_s": report[f"learner/{unit}"] / elapsed}

    def token_records(self) -> Any | None:
        """A store reference to what the last step knew of this rank's tokens (`learner.token_records`); None where nothing is kept."""
        records, self._trainer.token_records = self._trainer.token_records, None
        return None if records is None else self._store.put(records)

    def rate(self, fragment: pa.RecordBatch) -> FloatArray:
        """Environment agents: the intrinsic reward that frames of an encoded fragment would earn now, float32[T, K]. Changes nothing."""
        return self._trainer.rate(fragment)

    def open_transfer(self, address: str, world_size: int) -> None:
        """Meets the engines for transfers between GPUs, while they `join_transfer`; see `carriers.Carrier.open`."""
        self._carrier.open(address, world_size)

    def export_weights(self, version: int, canary_token_ids: IntArray | None) -> WeightUpdate | None:
        """Packs the policy bucket by bucket; rank 0 returns the update, others None."""
        begin = time.perf_counter()
        canary = self._networks.canary(canary_token_ids, self._device) if canary_token_ids is not None else None
        tensors, dtype = self._networks.wire(), self._networks.wire_dtype
        layout = weight_plan.plan(((name, _shape(t), dtype) for name, t in tensors.items()), self._config.sync.bucket_mib * 2**20)
        self._carrier.begin()
        for index, specs in groupby(layout.tensors, key=lambda spec: spec.bucket):
            with self._policy.gathered([f"model.{spec.name}" for spec in specs]):
                self._carrier.add(layout, index, tensors)
        update = self._carrier.announce(layout, version)
        self._exported = replace(update, canary_token_ids=canary_token_ids, canary_logprobs=canary)
        self._busy_s += time.perf_counter() - begin
        return self._exported if self._group.rank == 0 else None

    def leave_transfer(self) -> WeightUpdate | None:
        """An engine of the broadcast group is gone: gives the group up. From here on the object store carries the weights.

        Rank 0 returns the last export with its bytes in the store; its version may be ahead of the published one. None elsewhere,
        and before the first export.
        """
        buckets = self._carrier.abandon()
        self._carrier = StoreCarrier(self._store, self._group.rank)
        if self._exported is None or self._group.rank != 0:
            return None
        digests = tuple(weight_plan.digest(bucket) for bucket in buckets)
        manifest, refs = replace(self._exported.manifest, digests=digests), [self._store.put(bucket) for bucket in buckets]
        return replace(self._exported, manifest=manifest, buckets=refs, transport="store")

    def begin_save(self, folder: Path) -> None:
        """Starts to save everything that a bit-exact continuation needs, for any number of ranks; each rank writes its own files.

        Returns at once. The state of this moment is what is saved, whatever is trained meanwhile; ask `saved` whether it is there.
        """
        folder, rank, size = Path(folder), self._group.rank, self._group.size
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"ranks": size, "updates": self._trainer.updates, "methods": json.loads(json.dumps(self._trainer.state))}
        parts = [Part("policy", self._policy.places(), _kinds(self._policy), self._random_states())]
        if self._critic:
            parts.append(Part("critic", self._critic.places(), _kinds(self._critic), {}))
        if self._ema:
            parts.append(Part("ema", self._policy.places(), {MASTER: self._ema.averages()}, {}))
        self._saver.begin(folder, parts, lambda: snapshot.write_meta(folder, meta) if rank == 0 else None)

    def saved(self) -> dict[str, Any]:
        """How far the newest save is, see `Saver.state`; any thread may ask."""
        return self._saver.state()

    def save(self, folder: Path) -> None:
        """`begin_save`, and waits until it is written. Raises `StorageError`."""
        self.begin_save(folder)
        self._saver.settle()
        if error := self._saver.state()["error"]:
            raise StorageError(f"cannot write {folder}: {error}", "free space, or move run.dir")

    def load(self, folder: Path) -> None:
        """Continues from `save`. Raises `CheckpointError` for a folder that is incomplete or belongs to another model."""
        self._saver.hold()
        folder, meta = Path(folder), snapshot.read_meta(Path(folder))
        ranks, updates = meta["ranks"], meta["updates"]
        if self._ema:
            with self._ema.swapped():
                self._restore(folder, "ema", self._policy, ranks, 0)
        self._restore(folder, "policy", self._policy, ranks, updates)
        if self._critic:
            self._restore(folder, "critic", self._critic, ranks, updates)
        self._trainer.updates, self._trainer.state = updates, meta.get("methods", {})
        for name, set_state in (("rng", torch.set_rng_state), ("cuda_rng", torch.cuda.set_rng_state)):
            state = snapshot.read_extra(folder, "policy", self._group.rank, ranks, name)
            if state is not None and (name == "rng" or self._device.type == "cuda"):
                set_state(state)

    def save_pretrained(self, folder: Path) -> None:
        """The policy as its own kind is used elsewhere, written by rank 0; the moving average goes to ``folder/ema``."""
        folder = Path(folder)
        self._saver.hold()
        self._write_pretrained(folder)
        if self._ema:
            with self._ema.swapped():
                self._write_pretrained(folder / "ema")

    def stats(self) -> dict[str, float]:
        """Seconds this rank was busy since it started, and its resident memory in bytes."""
        return {"busy_s": self._busy_s, "rss_bytes": float(psutil.Process().memory_info().rss)}

    def _random_states(self) -> dict[str, Tensor]:
        states = {"rng": torch.get_rng_state()}
        return states | ({"cuda_rng": torch.cuda.get_rng_state()} if self._device.type == "cuda" else {})

    def _restore(self, folder: Path, part: str, trainable: Trainable, ranks: int, updates: int) -> None:
        state = snapshot.read_part(folder, part, ranks)
        snapshot.check_parameters(state, {n: _shape(p) for n, p in trainable.net.named_parameters()}, folder)
        trainable.load_state(state, updates)

    def _write_pretrained(self, folder: Path) -> None:
        state: dict[str, Tensor] = {}
        for name, values in self._policy.state():  # producing an item is a collective call, keeping it is not
            if self._group.rank == 0:
                state[name.removeprefix("model.")] = values[MASTER].to(self._networks.wire_dtype).cpu()
        if self._group.rank == 0:
            self._networks.write(folder, state)


def _kinds(trainable: Trainable) -> dict[str, list[Tensor | None]]:
    return {MASTER: list(trainable.masters()), **trainable.moments()}


def _shape(parameter: Tensor) -> torch.Size:
    """The whole shape, also where ZeRO-3 has partitioned the parameter away."""
    return getattr(parameter, "ds_shape", parameter.shape)
