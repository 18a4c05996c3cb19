"""Invariants of the weight plan: what is unpacked is what was packed, and any other byte is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrl.errors import WeightSyncError
from rayrl.sync.plan import ALIGNMENT, check_compatible, digest, manifest, pack, pack_bucket, plan, unpack, verify, wire_items
from rayrl.types import WeightManifest

DTYPES = (torch.bfloat16, torch.float32, torch.float16, torch.int64, torch.uint8)
SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=3)


def announce(buckets: list[np.ndarray], layout, version: int = 3) -> WeightManifest:
    return manifest(layout, version, [digest(b) for b in buckets])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8), st.integers(1, 400), st.integers(0, 2**31))
def test_unpacked_tensors_are_bitwise_those_that_were_packed(specs, bucket_bytes, seed):
    torch.manual_seed(seed)
    tensors = [(f"t{i}", (torch.randn(shape) * 50).abs().to(dtype)) for i, (shape, dtype) in enumerate(specs)]
    buckets, layout = pack(tensors, bucket_bytes)
    for b in buckets:
        b.flags.writeable = False
    m = announce(buckets, layout)
    verify(m, buckets)
    found = dict(unpack(m, buckets))
    assert list(found) == [name for name, _ in tensors]
    for name, tensor in tensors:
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8), st.integers(1, 400))
def test_layout_is_aligned_and_never_overlaps_and_only_oversized_tensors_exceed_the_bucket(specs, bucket_bytes):
    layout = plan(((f"t{i}", shape, dtype) for i, (shape, dtype) in enumerate(specs)), bucket_bytes)
    for index, nbytes in enumerate(layout.bucket_nbytes):
        end = 0
        inside = layout.in_bucket(index)
        for spec in inside:
            assert spec.offset % ALIGNMENT == 0 and spec.offset >= end
            end = spec.offset + spec.nbytes
        assert end == nbytes
        assert nbytes <= bucket_bytes or sum(s.nbytes > 0 for s in inside) == 1


def test_views_share_the_buckets_memory():
    buckets, layout = pack([("w", torch.arange(6.0))], 1024)
    (_, view), *_ = unpack(announce(buckets, layout), buckets)
    buckets[0][:4] = np.frombuffer(np.float32(9.0).tobytes(), np.uint8)
    assert view[0].item() == 9.0


def test_one_flipped_bit_or_a_lost_bucket_is_refused():
    buckets, layout = pack([("a", torch.randn(100)), ("b", torch.randn(100))], 400)
    m = announce(buckets, layout)
    buckets[1][17] ^= 1
    with pytest.raises(WeightSyncError, match="bucket 1"):
        verify(m, buckets)
    with pytest.raises(WeightSyncError, match="1 buckets arrived, 2 were announced"):
        verify(m, buckets[:1])
    with pytest.raises(WeightSyncError, match="announced were"):
        verify(m, [buckets[0], buckets[1][:-1]])


def test_digest_is_xxh3_128_of_the_raw_bytes():
    data = np.frombuffer(hashlib.sha256(b"x").digest() * 9, np.uint8)
    assert digest(data) == xxhash.xxh3_128(data.tobytes()).hexdigest()


def test_packing_converts_to_the_wire_dtype_and_leaves_integers_alone():
    tensors = [("w", torch.tensor([1.0, 1 / 3])), ("n", torch.tensor([7]))]
    buckets, layout = pack(tensors, 1024, dtype=torch.bfloat16)
    found = dict(unpack(announce(buckets, layout), buckets))
    assert torch.equal(found["w"], tensors[0][1].bfloat16()) and torch.equal(found["n"], tensors[1][1])


def test_equal_weights_give_equal_digests_whatever_memory_they_came_from():
    tensors = [("a", torch.randn(3, 5)), ("b", torch.randn(7))]
    strided = [(n, t.repeat(2, *[1] * (t.dim() - 1))[: t.shape[0]].t().contiguous().t()) for n, t in tensors]
    one, layout = pack(tensors, 4096)
    two = [pack_bucket(layout, i, dict(strided)) for i in range(len(one))]
    assert [digest(b) for b in one] == [digest(b) for b in two]


def test_a_plan_that_does_not_fit_the_engine_names_the_tensors():
    buckets, layout = pack([("a", torch.zeros(2, 3)), ("c", torch.zeros(1))], 1024)
    m = announce(buckets, layout)
    check_compatible(m, {"a": (2, 3), "c": (1,)})
    with pytest.raises(WeightSyncError, match=r"missing b; unexpected c; a is \(2, 3\), the engine's is \(3, 2\)"):
        check_compatible(m, {"a": (3, 2), "b": (4,)})


def test_tied_head_is_not_sent():
    named = [("model.embed_tokens.weight", torch.zeros(1)), ("lm_head.weight", torch.zeros(1))]
    assert [n for n, _ in wire_items(named, tied=True)] == ["model.embed_tokens.weight"]
    assert len(list(wire_items(named, tied=False))) == 2


def test_duplicate_names_are_refused():
    with pytest.raises(ValueError, match="'a' appears twice"):
        plan([("a", (1,), torch.float32), ("a", (1,), torch.float32)], 10)
