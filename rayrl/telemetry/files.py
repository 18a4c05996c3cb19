"""Writing to the run folder: complete files appear at once, and a full disk is an error that names its remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rayrl.errors import StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns any `OSError` of the block into a `StorageError` about ``path``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free space or move run.dir, then `rayrl resume`" if full else "fix the permissions, or move run.dir"
        raise StorageError(f"cannot write {path}: {error.strerror or error}", hint) from error


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` fills a temporary neighbour that then takes the place of ``path``: a reader sees the old file or the new one.

    The neighbour's name starts with a dot, which readers of Parquet folders skip. Raises `StorageError`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
