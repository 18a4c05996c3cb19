"""An engine without a model, for unit and chaos tests: seeded lengths, token ids and log-probs by hash, real version bookkeeping.

It keeps the `Engine` contract to the letter (one token per step and request, spans across updates, digests verified), so
the loops around it are exercised as with a real one. It holds no weights and therefore never claims a canary gap.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from rayrl.sync.plan import verify
from rayrl.types import FinishReason, FloatArray, GenerationRequest, GenerationResult, IntArray, SyncReport, VersionSpan, WeightUpdate

Lengths = Callable[[np.random.Generator], int]
"""Draws the natural length (tokens) of one completion."""


def lognormal_lengths(median: float = 16.0, sigma: float = 0.8) -> Lengths:
    """Long-tailed lengths, as sampled completions have."""
    return lambda rng: max(1, round(median * float(np.exp(sigma * rng.standard_normal()))))


@dataclass
class _Running:
    request: GenerationRequest
    length: int
    reason: FinishReason
    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)


class FakeEngine:
    """``step_s`` is the time of one step; ``lengths`` draws natural lengths; ``eos_token_id`` ends those that do not hit their limit."""

    def __init__(
        self,
        *,
        seed: int = 0,
        vocab_size: int = 128,
        max_length: int = 512,
        max_running: int = 256,
        lengths: Lengths | None = None,
        step_s: float = 0.0,
        load_s: float = 0.0,
        eos_token_id: int = 1,
    ) -> None:
        self._vocab_size, self._max_length, self._max_running = vocab_size, max_length, max_running
        self._lengths = lengths or lognormal_lengths()
        self._step_s, self._load_s, self._eos = step_s, load_s, eos_token_id
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._version = 0
        self._weights = "initial"
        self.reseed(seed)

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        for r in requests:
            if not 0 < r.token_ids.shape[0] < self._max_length:
                raise ValueError(f"prompt of {r.token_ids.shape[0]} tokens does not fit a context of {self._max_length}")
        self._waiting.extend(self._start(r) for r in requests)

    def step(self) -> list[GenerationResult]:
        if self._step_s:
            time.sleep(self._step_s)
        while self._waiting and len(self._running) < self._max_running:
            self._running.append(self._waiting.popleft())
        for r in self._running:
            self._advance(r)
        done = [r for r in self._running if len(r.tokens) == r.length]
        if done:
            self._running = [r for r in self._running if len(r.tokens) < r.length]
        return [
            GenerationResult(r.request.id, np.array(r.tokens, np.int32), np.array(r.logprobs, np.float32), r.reason, tuple(r.spans))
            for r in done
        ]

    def abort(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._waiting = deque(r for r in self._waiting if r.request.id not in gone)
        self._running = [r for r in self._running if r.request.id not in gone]

    def reseed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        started = time.perf_counter()
        verify(update.manifest, update.buckets)
        if self._load_s:
            time.sleep(self._load_s)
        self._version, self._weights = update.manifest.version, update.manifest.digest
        spent = time.perf_counter() - started
        return SyncReport(self._version, self._weights, paused_s=spent, load_s=spent, canary_gap=None)

    def logprobs(self, token_ids: IntArray) -> FloatArray:
        ids = np.asarray(token_ids, np.int32)
        draws = [xxhash.xxh3_64_intdigest(self._weights.encode() + ids[: i + 1].tobytes()) for i in range(1, ids.shape[0])]
        return -np.array(draws, np.float64).astype(np.float32) / np.float32(2**63)

    def sleep(self) -> int:
        return 0

    def wake(self) -> None:
        return None

    def close(self) -> None:
        self._waiting.clear()
        self._running.clear()

    @property
    def version(self) -> int:
        return self._version

    @property
    def num_running(self) -> int:
        return len(self._waiting) + len(self._running)

    def _start(self, request: GenerationRequest) -> _Running:
        sampling = request.sampling
        rng = np.random.default_rng(sampling.seed if sampling.seed is not None else self._rng.integers(2**63))
        limit = min(sampling.max_tokens, self._max_length - request.token_ids.shape[0])
        natural = limit + 1 if sampling.ignore_eos else self._lengths(rng)
        reason = FinishReason.STOP if natural <= limit else FinishReason.LENGTH
        return _Running(request, min(natural, limit), reason, rng)

    def _advance(self, r: _Running) -> None:
        last = len(r.tokens) + 1 == r.length and r.reason is FinishReason.STOP
        r.tokens.append(self._eos if last else int(r.rng.integers(self._eos + 1, self._vocab_size)))
        r.logprobs.append(-float(r.rng.exponential()))
        end = len(r.tokens)
        if r.spans and r.spans[-1].version == self._version:
            r.spans[-1] = r.spans[-1]._replace(end=end)
        else:
            r.spans.append(VersionSpan(self._version, end - 1, end))
