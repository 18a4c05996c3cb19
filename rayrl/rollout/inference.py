"""An actor that computes the policy for several env workers: one forward pass for all who wait, on a GPU where it has one.

Whoever calls while a pass is under way is served by the next one, together with all others who came meanwhile: batches grow with the
load by themselves, and nobody waits for a batch to fill. Weights are loaded and proven between two passes, once for all workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from rayrl.errors import RoleDied
from rayrl.protocols import Store
from rayrl.rollout.agent_policy import LocalPolicy
from rayrl.telemetry.process import resident_bytes
from rayrl.types import FloatArray, SyncReport, WeightUpdate

Answer = tuple[int, FloatArray, FloatArray]
"""Version of the weights, log-probabilities float32[K, A], state float32[K, H] after the step."""


class _Request:
    """One worker's step; answered or failed by whoever makes the pass."""

    __slots__ = ("answer", "error", "observations", "state")

    def __init__(self, observations: Mapping[str, np.ndarray], state: FloatArray) -> None:
        self.observations, self.state = observations, state
        self.answer: Answer | None = None
        self.error: Exception | None = None


class InferenceActor:
    """Called from as many threads as there are workers."""

    def __init__(self, policy: LocalPolicy, store: Store, *, sync_s: float) -> None:
        """``sync_s`` limits the fetching of weights."""
        self._policy, self._store, self._sync_s = policy, store, sync_s
        self._queue: list[_Request] = []
        self._queueing, self._computing = threading.Lock(), threading.Lock()
        self._busy_s, self._passes, self._rows = 0.0, 0, 0

    def step(self, observations: Mapping[str, np.ndarray], state: FloatArray) -> Answer:
        """One step of K environments. Raises `RoleDied` before it was given weights: ask again."""
        request = _Request(observations, state)
        with self._queueing:
            self._queue.append(request)
        with self._computing:
            if request.answer is None and request.error is None:
                with self._queueing:
                    batch, self._queue = self._queue, []
                self._pass(batch)
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """See `protocols.Engine.update_weights`."""
        buckets = [b if isinstance(b, np.ndarray) else self._store.get(b, timeout_s=self._sync_s) for b in update.buckets]
        with self._computing:
            return self._policy.update_weights(replace(update, buckets=buckets))

    def stats(self) -> dict[str, float]:
        """Counters since the start: seconds in passes, passes, environment steps; and resident memory in bytes."""
        numbers = {"busy_s": self._busy_s, "passes": self._passes, "steps": self._rows, "rss_bytes": resident_bytes()}
        return {name: float(value) for name, value in numbers.items()}

    def _pass(self, batch: list[_Request]) -> None:
        started = time.perf_counter()
        try:
            if self._policy.version < 0:
                raise RoleDied("the inference actor has no weights yet", "ask again")
            beside = lambda arrays: torch.from_numpy(np.concatenate(arrays))
            observations = {name: beside([r.observations[name] for r in batch]) for name in batch[0].observations}
            logprobs, after = self._policy.forward(observations, beside([r.state for r in batch]))
            ends = np.cumsum([len(r.state) for r in batch])
            for request, end in zip(batch, ends.tolist(), strict=True):
                own = slice(end - len(request.state), end)
                request.answer = self._policy.version, logprobs[own], after.numpy()[own]
            self._rows += int(ends[-1])
        except Exception as error:  # belongs to the callers, all of whom wait for it
            for request in batch:
                request.error = error
        self._passes += 1
        self._busy_s += time.perf_counter() - started
