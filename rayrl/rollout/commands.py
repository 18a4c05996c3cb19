"""Calls from other threads, executed by the thread that owns a worker's loop, between two of its steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from rayrl.errors import DeadlineExceeded, RoleFailed

T = TypeVar("T")


class Commands:
    """``owner`` names the worker in errors; ``wake`` is set when a call waits."""

    def __init__(self, owner: str, wake: threading.Event) -> None:
        self._owner, self._wake = owner, wake
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future]] = SimpleQueue()
        self._closed = False

    def call(self, what: str, function: Callable[[], T], timeout_s: float) -> T:
        """Has ``function`` executed and returns its result, or raises what it raised; `DeadlineExceeded` after ``timeout_s``."""
        future: Future = Future()
        self._calls.put((function, future))
        self._wake.set()
        if self._closed:
            self._reject()
        try:
            return future.result(timeout=timeout_s)
        except TimeoutError:
            if future.cancel() or not future.done():
                raise DeadlineExceeded(
                    f"{what} waited {timeout_s:.0f} s for {self._owner}", "its loop is not running, or one of its steps is stuck"
                ) from None
            raise

    def execute(self) -> None:
        """Everything that waits; called by the owner of the loop."""
        while True:
            try:
                function, future = self._calls.get_nowait()
            except Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:  # belongs to the caller, who is waiting for it
                future.set_exception(error)

    def close(self) -> None:
        """The loop has ended: present and future calls fail."""
        self._closed = True
        self._reject()

    def _reject(self) -> None:
        while True:
            try:
                _, future = self._calls.get_nowait()
            except Empty:
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(RoleFailed(f"{self._owner} has stopped", "it takes no more calls"))
