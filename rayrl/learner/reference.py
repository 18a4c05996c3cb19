"""The frozen policy that the learner is kept close to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch

from rayrl.config.schema import Config
from rayrl.data import arrow, packing
from rayrl.learner.attention import PACKED
from rayrl.learner.forward import PolicyNet, build_inputs
from rayrl.learner.loading import load_policy
from rayrl.learner.networks import choose_device
from rayrl.learner.rows import REFERENCE_COLUMN
from rayrl.protocols import Store
from rayrl.types import GroupInfo


class ReferenceModel:
    """Log-probs under a fixed model (`protocols.Reference`), at the sampling temperature of the policy."""

    def __init__(self, config: Config, store: Store) -> None:
        """Loads `reference.path`, or where it is null `model.path`. Raises `ModelError`."""
        self._store, self._timeout_s = store, config.deadlines.call_s
        self._budget, self._packed = config.reference.token_budget, config.learner.packing
        threads = 1 if config.run.deterministic else config.reference.cpu_threads
        self._device = choose_device(threads, config.reference.actors)
        attention = PACKED if self._packed else config.learner.attention
        model = load_policy(config.model, path=config.reference.path, attention=attention)
        net = PolicyNet(model, temperature=config.rollout.sampling.temperature)
        self._net = net.to(self._device).eval().requires_grad_(False)
        self._busy_s = 0.0

    @torch.inference_mode()
    def logprobs(self, groups: Sequence[GroupInfo]) -> list[Any]:
        """One store reference per group to a record batch with the column `REFERENCE_COLUMN`: per trajectory a float32[T],
        position t holding the log-prob of token t given its prefix, 0 where the token is no action.

        Sequences of all groups share forward passes under `reference.token_budget`.
        """
        begin = time.perf_counter()
        ids, masks = [], []
        for group in groups:
            payload = self._store.get(group.payload, timeout_s=self._timeout_s)
            ids += arrow.split(payload, "token_ids")
            masks += [m.view(np.bool_) for m in arrow.split(payload, "action_mask")]
        out = [np.zeros(len(x), np.float32) for x in ids]
        acting = [i for i, mask in enumerate(masks) if mask.any()]
        for micro in packing.plan([len(ids[i]) for i in acting], self._budget, packed=self._packed):
            chosen = [acting[k] for k in micro]
            inputs = build_inputs([ids[i] for i in chosen], [masks[i] for i in chosen], packed=self._packed, device=self._device)
            flat, _ = self._net(inputs)
            parts = np.split(flat.cpu().numpy(), np.cumsum([masks[i].sum() for i in chosen])[:-1])
            for i, part in zip(chosen, parts, strict=True):
                out[i][masks[i]] = part
        counts = np.cumsum([0] + [len(group.lengths) for group in groups])
        refs = [self._store.put(_payload(out[a:b])) for a, b in pairwise(counts)]
        self._busy_s += time.perf_counter() - begin
        return refs

    def stats(self) -> dict[str, float]:
        """Seconds this actor was busy since it started, and its resident memory in bytes."""
        return {"busy_s": self._busy_s, "rss_bytes": float(psutil.Process().memory_info().rss)}

    def close(self) -> None:
        """Nothing outlives the object."""


def _payload(rows: list[np.ndarray]) -> pa.RecordBatch:
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int32)
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))
    return pa.RecordBatch.from_arrays([column], names=[REFERENCE_COLUMN])
