"""Record batches on their way through the object store: one buffer each, as an Arrow IPC stream.

Pickled as it is, a batch becomes some forty buffers that a reader maps and wraps one by one; as a stream it is read three times as fast,
zero-copy all the same.
"""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa


class _Framed:
    """Pickles as the stream of its batch, and comes back as the batch itself."""

    __slots__ = ("batch",)

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, tuple[pickle.PickleBuffer]]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batch.schema) as stream:
            stream.write_batch(self.batch)
        return _read, (pickle.PickleBuffer(sink.getvalue()),)


def framed(value: Any) -> Any:
    """What to hand to Ray in place of ``value``; readers get ``value``, schema and metadata included."""
    return _Framed(value) if isinstance(value, pa.RecordBatch) else value


def _read(buffer: Any) -> pa.RecordBatch:
    return pa.ipc.open_stream(pa.py_buffer(buffer)).read_next_batch()
