"""A learner on disk: every parameter whole and by name, dealt over one safetensors file per rank.

Nothing depends on how the optimiser was sharded, so any number of ranks and any ZeRO stage continues from it. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayrl.errors import CheckpointError

_SEPARATOR = "|"
_META = "learner.json"
_FORMAT = 1


def write_part(
    folder: Path,
    part: str,
    rank: int,
    ranks: int,
    state: Iterator[tuple[str, Mapping[str, Tensor]]],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes this rank's share of ``state`` (every ranks-th parameter) and ``extra`` tensors of its own, as part ``part``.

    Every rank must run through the whole of ``state``: producing an item may be a collective call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for i, (name, values) in enumerate(state):
        if i % ranks == rank:
            tensors |= {f"{name}{_SEPARATOR}{key}": value.detach().cpu().clone().contiguous() for key, value in values.items()}
    tensors |= {f"{_SEPARATOR}{key}": value.contiguous() for key, value in (extra or {}).items()}
    save_file(tensors, _file(folder, part, rank, ranks))


def read_part(folder: Path, part: str, ranks: int) -> dict[str, dict[str, Tensor]]:
    """``{parameter: {key: tensor}}`` from the files of all ``ranks`` ranks that wrote. Raises `CheckpointError`."""
    state: dict[str, dict[str, Tensor]] = {}
    for rank in range(ranks):
        with _open(_file(folder, part, rank, ranks)) as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                name, _, kind = key.rpartition(_SEPARATOR)
                if name:
                    state.setdefault(name, {})[kind] = file.get_tensor(key)
    return state


def read_extra(folder: Path, part: str, rank: int, ranks: int, key: str) -> Tensor | None:
    """An ``extra`` tensor of the rank that wrote it; None where no such rank wrote."""
    if rank >= ranks:
        return None
    with _open(_file(folder, part, rank, ranks)) as file:
        return file.get_tensor(f"{_SEPARATOR}{key}")


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
    found = {name: values["master"].shape for name, values in state.items()}
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit the model: {len(wrong)} parameters differ, the first is {min(wrong)!r}",
            "resume with the same model.path",
        )


def _file(folder: Path, part: str, rank: int, ranks: int) -> Path:
    return folder / f"{part}-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "the checkpoint is incomplete; resume from an older one") from error
