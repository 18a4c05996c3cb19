"""The plan of a weight update: which tensor lies where in which bucket, and the proof that both sides hold the same bytes.

A *layout* places Hugging Face named tensors into uint8 buckets; `pack_bucket` fills one of them, so that a sharded learner
gathers a bucket at a time. A *manifest* is a layout with a version and one digest per bucket: it is sent before the bytes.
Tensors travel as raw little-endian bytes (numpy has no bfloat16). With tied embeddings the output head is not sent:
leave ``lm_head.weight`` out of the tensors (`wire_items` does).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from rayrl.errors import WeightSyncError
from rayrl.types import TensorSpec, WeightManifest

ALIGNMENT = 64
"""Bytes. Every tensor starts at a multiple of it, so that a view of the bucket is aligned for any dtype and for vector loads."""

Bucket = np.ndarray
"""uint8[nbytes]; read-only is fine everywhere but in `pack_bucket`'s result."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every tensor goes. The same specs and bucket size always give the same layout."""

    tensors: tuple[TensorSpec, ...]
    """In the order of the specs; buckets ascend."""
    bucket_nbytes: tuple[int, ...]

    def in_bucket(self, index: int) -> list[TensorSpec]:
        return [t for t in self.tensors if t.bucket == index]


def wire_items(named: Iterable[tuple[str, torch.Tensor]], *, tied: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that are sent: all of ``named``, without the output head when it is tied to the input embedding."""
    return ((name, tensor) for name, tensor in named if not (tied and name == "lm_head.weight"))


def plan(specs: Iterable[tuple[str, Sequence[int], torch.dtype]], bucket_bytes: int) -> Layout:
    """Places tensors in order into buckets of at most ``bucket_bytes``; a larger tensor gets a bucket of its own.

    Raises `ValueError` for a name that appears twice.
    """
    placed: list[TensorSpec] = []
    sizes: list[int] = []
    names: set[str] = set()
    for name, shape, dtype in specs:
        if name in names:
            raise ValueError(f"tensor {name!r} appears twice in a weight plan")
        names.add(name)
        nbytes = math.prod(shape) * dtype.itemsize
        offset = -(-sizes[-1] // ALIGNMENT) * ALIGNMENT if sizes else 0
        if not sizes or (offset + nbytes > bucket_bytes and sizes[-1] > 0):
            sizes.append(0)
            offset = 0
        placed.append(TensorSpec(name, tuple(int(n) for n in shape), str(dtype).removeprefix("torch."), len(sizes) - 1, offset, nbytes))
        sizes[-1] = offset + nbytes
    return Layout(tuple(placed), tuple(sizes))


def pack_bucket(layout: Layout, index: int, tensors: Mapping[str, torch.Tensor]) -> Bucket:
    """One bucket filled from ``tensors`` (any device; converted to the planned dtype). Gaps between tensors are zero."""
    bucket = np.zeros(layout.bucket_nbytes[index], dtype=np.uint8)
    fill(torch.from_numpy(bucket), layout.in_bucket(index), tensors)
    return bucket


def fill(bucket: torch.Tensor, specs: Iterable[TensorSpec], tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes ``tensors`` to their places in ``bucket`` uint8[nbytes], on any device. Raises `ValueError` for another shape than planned."""
    for spec in specs:
        tensor = tensors[spec.name]
        if tuple(tensor.shape) != spec.shape:
            raise ValueError(f"tensor {spec.name!r} has shape {tuple(tensor.shape)}, planned was {spec.shape}")
        part(bucket, spec).copy_(tensor.detach())


def pack(named: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int, dtype: torch.dtype | None = None) -> tuple[list[Bucket], Layout]:
    """Plans and fills all buckets; ``dtype`` converts floating tensors on the way (a float32 master copy sent as bfloat16)."""
    tensors = dict(named)
    wire = {name: dtype if dtype is not None and t.is_floating_point() else t.dtype for name, t in tensors.items()}
    layout = plan(((name, t.shape, wire[name]) for name, t in tensors.items()), bucket_bytes)
    return [pack_bucket(layout, i, tensors) for i in range(len(layout.bucket_nbytes))], layout


def digest(bucket: Bucket) -> str:
    """xxh3-128 of the bytes, as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(bucket.data)


def manifest(layout: Layout, version: int, digests: Iterable[str]) -> WeightManifest:
    """The announcement of an update; ``digests`` has one entry per bucket."""
    return WeightManifest(version, layout.tensors, layout.bucket_nbytes, tuple(digests))


def verify(manifest: WeightManifest, buckets: Sequence[Bucket]) -> None:
    """Raises `WeightSyncError` unless ``buckets`` are, byte for byte, what the manifest announced."""
    if len(buckets) != len(manifest.bucket_nbytes):
        raise WeightSyncError(
            f"weight update {manifest.version}: {len(buckets)} buckets arrived, {len(manifest.bucket_nbytes)} were announced",
            "learner and engine disagree on the plan; both must run the same version of rayrl",
        )
    for i, (bucket, nbytes, expected) in enumerate(zip(buckets, manifest.bucket_nbytes, manifest.digests, strict=True)):
        where = f"weight update {manifest.version}, bucket {i}"
        if bucket.nbytes != nbytes:
            raise WeightSyncError(f"{where}: {bucket.nbytes} bytes arrived, announced were {nbytes}", _CORRUPT)
        if (found := digest(bucket)) != expected:
            raise WeightSyncError(f"{where}: its digest is {found}, announced was {expected}", _CORRUPT)


def check_compatible(manifest: WeightManifest, expected: Mapping[str, Sequence[int]]) -> None:
    """Raises `WeightSyncError` unless the manifest carries exactly the tensors of ``expected`` (name -> shape).

    Leave a tied ``lm_head.weight`` out of ``expected``.
    """
    sent = {t.name: t.shape for t in manifest.tensors}
    problems = [f"missing {name}" for name in expected if name not in sent]
    problems += [f"unexpected {name}" for name in sent if name not in expected]
    wrong = [(name, tuple(shape)) for name, shape in expected.items() if name in sent and sent[name] != tuple(shape)]
    problems += [f"{name} is {sent[name]}, the engine's is {shape}" for name, shape in wrong]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise WeightSyncError(
            f"weight update {manifest.version} does not fit the engine's model: {shown}",
            "learner and engines must be built from the same model.path",
        )


def unpack(manifest: WeightManifest, buckets: Sequence[Bucket]) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors as views of the buckets: nothing is copied, so they must not be written to and live as long as the buckets."""
    with warnings.catch_warnings():  # shared memory is mapped read-only; these views are only ever read
        warnings.filterwarnings("ignore", message="The given (buffer|NumPy array) is not writable")
        flat = [torch.from_numpy(bucket) for bucket in buckets]
    for spec in manifest.tensors:
        yield spec.name, part(flat[spec.bucket], spec)


def part(bucket: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """The tensor of ``spec`` as a view of ``bucket`` uint8[nbytes]."""
    dtype = getattr(torch, spec.dtype)
    if spec.nbytes == 0:  # the dtypes of two empty tensors cannot be exchanged
        return torch.empty(spec.shape, dtype=dtype, device=bucket.device)
    return bucket[spec.offset : spec.offset + spec.nbytes].view(dtype).view(spec.shape)


_CORRUPT = "the bytes changed between learner and engine; the engine keeps its old weights and must be replaced"
