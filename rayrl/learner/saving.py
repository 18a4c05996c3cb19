"""Saving beside training: the state is copied to host memory while the next batch is being computed, and written from there.

Nothing that is saved changes before the next optimiser update, so the copy runs beside the forward and backward passes that come
before it; the update waits for what is left of the copy. The host memory (weights and moments in float32) is kept for the next save.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayrl.deadlines import Deadline
from rayrl.learner import snapshot
from rayrl.learner.snapshot import Piece
from rayrl.learner.trainable import Place

_Copies = Mapping[str, Sequence[Tensor | None]]


@dataclass(frozen=True)
class Part:
    """One network with its optimiser, as this rank holds it."""

    name: str
    places: Sequence[Place]
    kinds: Mapping[str, Sequence[Tensor | None]]
    """By kind: one tensor for each of the rank's masters, of its size; None where there is none yet."""
    extra: Mapping[str, Tensor]


class Saver:
    """Owned by one rank. `begin`, `hold` and `settle` are called by the thread that trains, `state` by any."""

    def __init__(self, rank: int, ranks: int, device: torch.device, limit_s: float) -> None:
        """``limit_s``: longest wait for a copy, and for a file."""
        self._rank, self._ranks, self._device, self._limit_s = rank, ranks, device, limit_s
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._host: dict[tuple[str, str, int], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._error = ""
        self._paused_s = self._write_s = 0.0
        self._bytes = 0

    def begin(self, folder: Path, parts: Sequence[Part], finish: Callable[[], None]) -> None:
        """Starts a save into ``folder``; ``finish`` is called after the last part is written."""
        started = time.perf_counter()
        self.settle()
        self._error, self._write_s, self._bytes = "", 0.0, 0
        self._copied.clear()
        ready = torch.cuda.Event() if self._stream is not None else None
        if ready is not None:
            ready.record()
        self._thread = threading.Thread(target=self._save, args=(folder, parts, finish, ready), name="save", daemon=True)
        self._paused_s = time.perf_counter() - started
        self._thread.start()

    def hold(self) -> None:
        """Before anything changes the weights: waits for the rest of the copy. Raises `DeadlineExceeded`."""
        if not self._copied.is_set():
            started = time.perf_counter()
            if not self._copied.wait(self._limit_s):
                raise Deadline("save_s", "the learner", "the copy of its own state", self._limit_s).error()
            self._paused_s += time.perf_counter() - started

    def settle(self) -> None:
        """Until everything is written."""
        if self._thread is not None:
            self._thread.join(self._limit_s)
            if self._thread.is_alive():
                raise Deadline("save_s", "the learner", "its files", self._limit_s).error()
            self._thread = None

    def state(self) -> dict[str, Any]:
        """Of the newest save: ``done``, ``error`` (empty: none), ``paused_s`` that training stood still, ``write_s``, ``bytes``."""
        thread = self._thread
        return {
            "done": thread is None or not thread.is_alive(),
            "error": self._error,
            "paused_s": self._paused_s,
            "write_s": self._write_s,
            "bytes": self._bytes,
        }

    # ---- the thread that saves

    def _save(self, folder: Path, parts: Sequence[Part], finish: Callable[[], None], ready: Any) -> None:
        try:
            try:
                copies = [self._copy(part, ready) for part in parts]
            finally:
                self._copied.set()
            started = time.perf_counter()
            for part, copy in zip(parts, copies, strict=True):
                self._bytes += snapshot.write_part(folder, part.name, self._rank, self._ranks, _pieces(part, copy), part.extra)
            finish()
            self._write_s = time.perf_counter() - started
        except Exception as error:  # told by `state`: there is nobody to raise it to
            self._error = f"{type(error).__name__}: {error}"

    @torch.no_grad()
    def _copy(self, part: Part, ready: Any) -> _Copies:
        copies: dict[str, list[Tensor | None]] = {}
        with self._beside(ready):
            for kind, tensors in part.kinds.items():
                buffers = [None if t is None else self._buffer((part.name, kind, i), t) for i, t in enumerate(tensors)]
                for buffer, tensor in zip(buffers, tensors, strict=True):
                    if buffer is not None and tensor is not None:
                        buffer.copy_(tensor.flatten(), non_blocking=True)
                copies[kind] = buffers
        if self._stream is not None:
            self._stream.synchronize()
        return copies

    def _beside(self, ready: Any) -> AbstractContextManager[Any]:
        if self._stream is None:
            return nullcontext()
        self._stream.wait_event(ready)
        return torch.cuda.stream(self._stream)

    def _buffer(self, key: tuple[str, str, int], like: Tensor) -> Tensor:
        found = self._host.get(key)
        if found is None or found.numel() != like.numel():
            found = torch.empty(like.numel(), dtype=torch.float32, pin_memory=like.is_cuda)
            self._host[key] = found
        return found


def _pieces(part: Part, copies: _Copies) -> Iterator[Piece]:
    for place in part.places:
        mine = {kind: flats[place.master] for kind, flats in copies.items()}
        yield Piece(
            place.name,
            place.shape,
            place.start,
            {kind: flat.narrow(0, place.offset, place.numel) for kind, flat in mine.items() if flat is not None},
        )
