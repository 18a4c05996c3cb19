"""The frozen policy that the learner is kept close to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch

from rayrl.config.schema import Config, OpponentConfig
from rayrl.data import arrow, packing
from rayrl.learner.forward import PolicyNet, build_inputs, launch_tokens
from rayrl.learner.loading import load_policy
from rayrl.learner.networks import choose_device
from rayrl.learner.rows import OPPONENT_COLUMN, REFERENCE_COLUMN
from rayrl.protocols import Store
from rayrl.types import GroupInfo


class ReferenceModel:
    """Log-probs under a fixed model (`protocols.Reference`), at the sampling temperature of the policy."""

    def __init__(self, config: Config, store: Store) -> None:
        """Loads `reference.path`, or where it is null `model.path`, and every opponent. Raises `ModelError`."""
        self._store, self._timeout_s = store, config.deadlines.call_s
        self._budget, self._packed = config.reference.token_budget, config.learner.packing
        threads = 1 if config.run.deterministic else config.reference.cpu_threads
        self._device = choose_device(threads, config.reference.actors)

        def frozen(path: str | None) -> PolicyNet:
            model = load_policy(config.model, path=path, learner=config.learner)
            net = PolicyNet(model, temperature=config.rollout.sampling.temperature)
            return net.to(self._device).eval().requires_grad_(False)

        self._net = frozen(config.reference.path)
        self._opponents = [(weight, frozen(path)) for path, weight in shares(config.reference.opponents)]
        self._launch = launch_tokens(self._net, self._device)
        self._busy_s = 0.0

    @torch.inference_mode()
    def logprobs(self, groups: Sequence[GroupInfo]) -> list[Any]:
        """One store reference per group to a record batch with the column `REFERENCE_COLUMN`: per trajectory a float32[T],
        position t holding the log-prob of token t given its prefix, 0 where the token is no action; and `OPPONENT_COLUMN`, the weighted
        mean of the opponents' log-probs, where there are any.

        Sequences of all groups share forward passes under `reference.token_budget`.
        """
        begin = time.perf_counter()
        ids, masks = [], []
        for group in groups:
            payload = self._store.get(group.payload, timeout_s=self._timeout_s)
            ids += arrow.split(payload, "token_ids")
            masks += [m.view(np.bool_) for m in arrow.split(payload, "action_mask")]
        out = [np.zeros(len(x), np.float32) for x in ids]
        others = [np.zeros(len(x), np.float32) for x in ids] if self._opponents else None
        acting = [i for i, mask in enumerate(masks) if mask.any()]
        for micro in packing.plan([len(ids[i]) for i in acting], self._budget, packed=self._packed, launch=self._launch):
            chosen = [acting[k] for k in micro]
            inputs = build_inputs([ids[i] for i in chosen], [masks[i] for i in chosen], packed=self._packed, device=self._device)
            cuts = np.cumsum([masks[i].sum() for i in chosen])[:-1]
            self._fill(out, masks, chosen, cuts, self._net(inputs)[0])
            if others is not None:
                self._fill(others, masks, chosen, cuts, torch.stack([weight * net(inputs)[0] for weight, net in self._opponents]).sum(0))
        counts = np.cumsum([0] + [len(group.lengths) for group in groups])
        refs = [self._store.put(_payload(out[a:b], others[a:b] if others is not None else None)) for a, b in pairwise(counts)]
        self._busy_s += time.perf_counter() - begin
        return refs

    @staticmethod
    def _fill(out: list[np.ndarray], masks: list[np.ndarray], chosen: list[int], cuts: np.ndarray, flat: torch.Tensor) -> None:
        for i, part in zip(chosen, np.split(flat.float().cpu().numpy(), cuts), strict=True):
            out[i][masks[i]] = part

    def stats(self) -> dict[str, float]:
        """Seconds this actor was busy since it started, and its resident memory in bytes."""
        return {"busy_s": self._busy_s, "rss_bytes": float(psutil.Process().memory_info().rss)}

    def close(self) -> None:
        """Nothing outlives the object."""


def shares(opponents: Mapping[str, OpponentConfig]) -> list[tuple[str, float]]:
    """Path and share of each opponent: the weights scaled to sum 1, equal shares where all are 0."""
    total = sum(o.weight for o in opponents.values())
    return [(o.path, o.weight / total if total > 0 else 1 / len(opponents)) for o in opponents.values()]


def _payload(rows: list[np.ndarray], others: list[np.ndarray] | None) -> pa.RecordBatch:
    columns = {REFERENCE_COLUMN: rows} | ({} if others is None else {OPPONENT_COLUMN: others})
    return pa.RecordBatch.from_arrays([_ragged(c) for c in columns.values()], names=list(columns))


def _ragged(rows: list[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))
