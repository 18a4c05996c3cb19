"""A fragment comes out of its record batch as it went in, without a copy."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrl.agent_types import EpisodeRecord, Fragment
from rayrl.data import arrow
from rayrl.data.fragment_arrow import decode, encode
from rayrl.types import VersionSpan


def fragment(steps: int = 5, envs: int = 3, finals: int = 1, seed: int = 0) -> Fragment:
    rng = np.random.default_rng(seed)
    observe = lambda *lead: {
        "chars": rng.integers(0, 256, (*lead, 12, 12)).astype(np.uint8),
        "stats": rng.integers(-9, 9, (*lead, 27)).astype(np.int32),
    }
    return Fragment(
        ordinal=7,
        observations=observe(steps + 1, envs),
        state=rng.normal(size=(envs, 4)).astype(np.float32),
        actions=rng.integers(0, 28, (steps, envs)).astype(np.int16),
        logprobs=-rng.random((steps, envs)).astype(np.float32),
        rewards=rng.normal(size=(steps, envs)).astype(np.float32),
        terminated=rng.random((steps, envs)) < 0.2,
        truncated=rng.random((steps, envs)) < 0.2,
        final_steps=np.arange(finals, dtype=np.int32),
        final_envs=np.zeros(finals, dtype=np.int32),
        final_observations=observe(finals),
        message_hash=rng.integers(0, 2**64, (steps, envs), dtype=np.uint64),
        message_count=rng.integers(1, 9, (steps, envs)).astype(np.int32),
        next_hash=rng.integers(0, 2**64, envs, dtype=np.uint64),
        next_count=rng.integers(1, 9, envs).astype(np.int32),
        version_spans=(VersionSpan(3, 0, 2), VersionSpan(4, 2, steps)),
        texts={2**64 - 1: b"You see here a \xff.", 5: b""},
        episodes=(EpisodeRecord(1, 0, 77, 2.5, 40, "truncated", {"success": 1.0}), EpisodeRecord(0, 4, 5, -1.0, 3, "death")),
    )


def same(a: Fragment, b: Fragment) -> bool:
    for name in Fragment.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            equal = x.dtype == y.dtype and np.array_equal(x, y)
        elif name.endswith("observations"):
            equal = x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and np.array_equal(x[k], y[k]) for k in x)
        else:
            equal = x == y
        if not equal:
            return False
    return True


@pytest.mark.parametrize("finals", [0, 2])
def test_a_fragment_survives_encoding_bit_for_bit(finals):
    original = fragment(finals=finals)
    assert same(decode(encode(original)), original)


def test_decoding_copies_no_array():
    batch = encode(fragment())
    found = decode(batch)
    for array in (found.actions, found.observations["chars"], found.terminated):
        assert not array.flags.owndata and not array.flags.writeable


def test_fragments_of_one_environment_share_a_table_and_survive_parquet():
    originals = [fragment(seed=s, finals=s) for s in range(3)]
    table, file = pa.Table.from_batches([encode(f) for f in originals]), io.BytesIO()
    pq.write_table(table, file)
    schema = encode(originals[0]).schema
    rows = pq.read_table(file).cast(schema).replace_schema_metadata(schema.metadata).combine_chunks().to_batches()[0]
    assert all(same(decode(rows.slice(i, 1)), original) for i, original in enumerate(originals))


def test_another_record_batch_is_refused():
    with pytest.raises(ValueError, match="not one fragment"):
        decode(arrow.encode([]))


def test_a_fragment_archived_before_it_said_what_comes_next_is_read():
    original = fragment()
    batch = encode(original)
    shapes = {name: shape for name, shape in json.loads(batch.column("shapes")[0].as_py()).items() if not name.startswith("next_")}
    old = batch.drop_columns(["next_hash", "next_count"])
    old = old.set_column(old.schema.get_field_index("shapes"), "shapes", pa.array([json.dumps(shapes)]))
    read = decode(old.replace_schema_metadata(batch.schema.metadata))
    assert (read.message_hash == original.message_hash).all()
    assert read.next_hash.tolist() == read.next_count.tolist() == [0] * original.envs
