"""What one step knew of every token that it trained on: for people who look at trajectories later, never for training.

Legend: ``R`` rows of this rank, ``W`` most action tokens of a row (compact columns, see learner/rows.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrl.learner.rows import Rows
from rayrl.types import LearnBatch

SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("sample", pa.int32()),
        ("advantages", pa.list_(pa.float32())),  # one per action token
        ("learner_logprobs", pa.list_(pa.float32())),  # at the token's first use in the step; empty where there was none
    ]
)


class FirstLogprobs:
    """Log-probs of the learner as the training forward computed them, when each row was first used. Costs no forward pass."""

    def __init__(self) -> None:
        self._parts: list[tuple[list[int], Tensor]] = []
        self._seen: set[int] = set()

    def add(self, micro: Sequence[int], logprobs: Tensor) -> None:
        """``logprobs`` float32[len(micro), w] of the rows ``micro``; stays on its device until `table`."""
        if micro and micro[0] not in self._seen:
            self._seen.update(micro)
            self._parts.append((list(micro), logprobs.detach()))

    def table(self, shape: torch.Size) -> Tensor | None:
        """float32[R, W]; None where no row was used."""
        if not self._parts:
            return None
        table = torch.zeros(shape)
        for micro, part in self._parts:
            table[micro, : part.shape[1]] = part.float().cpu()
        return table


def encode(batch: LearnBatch, rows: Rows, advantages: Tensor, logprobs: Tensor | None) -> pa.RecordBatch:
    """One row of `SCHEMA` per trajectory of this rank, in any order. ``advantages``, ``logprobs``: float32[R, W]."""
    ordinals = np.repeat([g.info.ordinal for g in batch.groups], [len(g.kept) for g in batch.groups])
    samples = np.concatenate([np.arange(len(g.kept)) for g in batch.groups]) if batch.groups else np.empty(0)
    columns = [
        pa.array(ordinals[rows.position], pa.int64()),
        pa.array(samples[rows.position], pa.int32()),
        _ragged(advantages, rows.mask),
        _ragged(logprobs, rows.mask if logprobs is not None else torch.zeros_like(rows.mask)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def of_fragment(ordinal: int, parts: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """What an agent's learner knew of every frame of one fragment: float32[T, K] each, kept flat and time-major."""
    columns = {"ordinal": pa.array([ordinal], pa.int64()), "sample": pa.array([0], pa.int32())}
    columns |= {name: pa.array([values.astype(np.float32).reshape(-1)], pa.list_(pa.float32())) for name, values in parts.items()}
    return pa.RecordBatch.from_pydict(columns)


def _ragged(values: Tensor | None, mask: Tensor) -> pa.ListArray:
    offsets = np.zeros(len(mask) + 1, np.int32)
    np.cumsum(mask.sum(-1).numpy(), out=offsets[1:])
    flat = values[mask].numpy() if values is not None else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.astype(np.float32, copy=False)))
