"""A learner on disk: parameters by name, in pieces, one safetensors file per rank with what that rank holds. No pickle.

A piece says which elements of which parameter it has, so nothing depends on how the optimiser was sharded: any number of ranks and
any ZeRO stage continues from it, and no rank needs another one to write its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rayrl.errors import CheckpointError
from rayrl.learner.trainable import MASTER

_SEPARATOR = "|"
_META = "learner.json"
_FORMAT = 2
_DTYPES = {torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64"}


class Piece(NamedTuple):
    """Elements ``[start, start + numel)`` of a flattened parameter."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    tensors: Mapping[str, Tensor]
    """By kind: the float32 master and its moments; flat, all of one size, in host memory."""


def write_part(folder: Path, part: str, rank: int, ranks: int, pieces: Iterable[Piece], extra: Mapping[str, Tensor] | None = None) -> int:
    """Writes the pieces of this rank, and ``extra`` tensors of its own, as part ``part``; on disk when it returns. Returns the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    where: dict[str, list[int]] = {}
    for piece in pieces:
        where[piece.name] = [piece.start, *piece.shape]
        tensors |= {f"{piece.name}{_SEPARATOR}{kind}": tensor for kind, tensor in piece.tensors.items()}
    tensors |= {f"{_SEPARATOR}{key}": value for key, value in (extra or {}).items()}
    return _write(_file(folder, part, rank, ranks), tensors, {"pieces": json.dumps(where)})


def read_part(folder: Path, part: str, ranks: int) -> dict[str, dict[str, Tensor]]:
    """``{parameter: {kind: whole tensor}}`` from the files of all ``ranks`` ranks that wrote. Raises `CheckpointError`."""
    state: dict[str, dict[str, Tensor]] = {}
    found: dict[tuple[str, str], int] = {}
    for rank in range(ranks):
        path = _file(folder, part, rank, ranks)
        with _open(path) as file:
            where = json.loads((file.metadata() or {}).get("pieces", "{}"))
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                name, _, kind = key.rpartition(_SEPARATOR)
                if not name:
                    continue
                start, *shape = where[name]
                piece = file.get_tensor(key)
                whole = state.setdefault(name, {}).setdefault(kind, torch.empty(shape, dtype=piece.dtype))
                whole.view(-1)[start : start + piece.numel()] = piece
                found[name, kind] = found.get((name, kind), 0) + piece.numel()
    for (name, kind), elements in found.items():
        if elements != state[name][kind].numel():
            raise CheckpointError(
                f"{folder}: of {name} ({kind}) only {elements} of {state[name][kind].numel()} elements are there",
                "the checkpoint is incomplete; resume from an older one",
            )
    return state


def read_extra(folder: Path, part: str, rank: int, ranks: int, key: str) -> Tensor | None:
    """An ``extra`` tensor of the rank that wrote it; None where no such rank wrote, or not that tensor."""
    if rank >= ranks:
        return None
    with _open(_file(folder, part, rank, ranks)) as file:
        name = f"{_SEPARATOR}{key}"
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 (not a mapping)


def write_meta(folder: Path, meta: Mapping[str, object]) -> None:
    (folder / _META).write_text(json.dumps({"format": _FORMAT, **meta}, indent=1) + "\n")


def read_meta(folder: Path) -> dict:
    """What `write_meta` wrote. Raises `CheckpointError` where it is missing, broken or of another format."""
    try:
        meta = json.loads((folder / _META).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no learner checkpoint: {error}", "choose a folder that a finished save wrote") from error
    if meta.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder / _META} has format {meta.get('format')!r}, known is {_FORMAT}", "resume with the rayrl that wrote it"
        )
    return meta


def check_parameters(state: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, torch.Size], folder: Path) -> None:
    """Raises `CheckpointError` unless ``state`` has exactly the ``expected`` parameters and shapes."""
    found = {name: values[MASTER].shape for name, values in state.items()}
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit the model: {len(wrong)} parameters differ, the first is {min(wrong)!r}",
            "resume with the same model.path",
        )


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """The safetensors format, straight from the tensors' memory: its own writer wants a copy of everything first."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            file.write(memoryview(tensor.contiguous().numpy()).cast("B") if tensor.numel() else b"")
        file.flush()
        os.fsync(file.fileno())
    return end


def _file(folder: Path, part: str, rank: int, ranks: int) -> Path:
    return folder / f"{part}-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "the checkpoint is incomplete; resume from an older one") from error
