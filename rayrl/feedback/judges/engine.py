"""A judge inside the cluster: an engine as rollout uses it, asked through its actor. The model is loaded once and never updated.

`JudgeWorker` is the role that owns the engine; `WorkersJudge` is how the annotator sees all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Protocol

import numpy as np

from rayrl.annotations import JudgeAnswer
from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.feedback.judges.base import JudgeError
from rayrl.protocols import Engine
from rayrl.types import FinishReason, GenerationRequest, SamplingParams

_DEAD = float("inf")
"""Questions out at a worker that died: it is given no more until `WorkersJudge.use` names its replacement."""
_IDLE_S = 0.5
_SLACK_S = 5.0
"""What a call may take beyond the deadline of its question, before its worker counts as lost."""


class JudgeWorker:
    """``run`` steps the engine until ``stop``; ``answer`` may be called from many threads at once.

    ``render`` turns messages into prompt ids, ``decode`` ids into text.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        render: Callable[[Sequence[Mapping[str, str]]], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._engine, self._model, self._render, self._decode = engine, model, render, decode
        self._lock, self._work, self._stopping = threading.Lock(), threading.Event(), threading.Event()
        self._inbox: list[GenerationRequest] = []
        self._abandoned: list[str] = []
        self._waiting: dict[str, Future] = {}
        self._numbers = itertools.count()
        self._busy_s = 0.0
        self._answers = 0

    def run(self) -> None:
        """Generates until `stop`."""
        while not self._stopping.is_set():
            self._work.wait(_IDLE_S)
            self._take_in()
            started = time.monotonic()
            while self._engine.num_running and not self._stopping.is_set():
                for result in self._engine.step():
                    self._hand_over(result.id, result)
                self._take_in()
            self._busy_s += time.monotonic() - started
        self._engine.close()

    def stop(self) -> None:
        self._stopping.set()
        self._work.set()

    def answer(self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams, deadline_s: float) -> JudgeAnswer:
        """Blocks for at most ``deadline_s`` seconds. Raises `JudgeError`: a prompt that does not fit, or no answer in time."""
        ids = np.asarray(self._render(messages), np.int32)
        future: Future = Future()
        with self._lock:
            name = f"judge/{next(self._numbers)}"
            self._waiting[name] = future
            self._inbox.append(GenerationRequest(name, ids, sampling))
        self._work.set()
        try:
            result = future.result(deadline_s)
        except FutureTimeout:
            with self._lock:
                self._waiting.pop(name, None)
                self._abandoned.append(name)
            raise JudgeError("timeout", f"{self._model} did not answer within {deadline_s:g} s", "raise feedback.deadline_s") from None
        return JudgeAnswer(
            self._decode(result.token_ids), self._model, len(ids), len(result.token_ids), result.finish_reason is FinishReason.LENGTH
        )

    def stats(self) -> dict[str, float]:
        return {"busy_s": self._busy_s, "answers": float(self._answers)}

    def _take_in(self) -> None:
        with self._lock:
            self._work.clear()
            inbox, self._inbox = self._inbox, []
            abandoned, self._abandoned = self._abandoned, []
        for request in inbox:
            try:
                self._engine.add([request])
            except ValueError as e:
                self._hand_over(request.id, JudgeError("request", str(e), "raise feedback.engine.max_length"))
        if abandoned:
            self._engine.abort(abandoned)

    def _hand_over(self, name: str, result: Any) -> None:
        with self._lock:
            future = self._waiting.pop(name, None)
        self._answers += 1
        if future is None:
            return
        if isinstance(result, JudgeError):
            future.set_exception(result)
        else:
            future.set_result(result)


class Worker(Protocol):
    """A handle of a `JudgeWorker`."""

    def submit(self, method: str, *args: Any) -> Any: ...


class WorkersJudge:
    """Spreads questions over judge workers, each to the one with the fewest out. ``concurrency`` calls at most are out at once."""

    def __init__(self, workers: Sequence[Worker], model: str, concurrency: int) -> None:
        self._model = model
        self._threads = ThreadPoolExecutor(2 * concurrency, thread_name_prefix="judge")  # a pair takes two
        self.use(workers)

    @property
    def model(self) -> str:
        return self._model

    def use(self, workers: Sequence[Worker]) -> None:
        """From here on these (a replaced worker has another handle)."""
        self._workers, self._out = list(workers), [0.0] * len(workers)

    async def answer(self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams, deadline_s: float) -> JudgeAnswer:
        """See `protocols.Judge.answer`."""
        workers, out = self._workers, self._out
        i = out.index(min(out)) if out else 0
        if not out or out[i] == _DEAD:
            raise JudgeError("connection", "no judge worker is alive at present")
        out[i] += 1
        call = lambda: workers[i].submit("answer", list(messages), sampling, deadline_s).result(deadline_s + _SLACK_S)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RoleFailed as e:
            out[i] = _DEAD
            raise JudgeError("connection", f"a judge worker died: {e.message}") from None
        except DeadlineExceeded as e:
            raise JudgeError("timeout", e.message, e.hint) from None
        finally:
            out[i] -= 1

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def render_with(tokenizer: Any) -> Callable[[Sequence[Mapping[str, str]]], Sequence[int]]:
    """The tokenizer's chat template, or the plain texts one under the other where it has none."""
    if getattr(tokenizer, "chat_template", None):
        return lambda messages: tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    return lambda messages: tokenizer("\n\n".join(m["content"] for m in messages) + "\n\n")["input_ids"]
