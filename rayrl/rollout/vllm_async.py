"""vLLM with the engine core in processes of its own (`AsyncLLM`): scheduling overlaps with compute, models span several GPUs.

The same contract as `vllm.py` over an asyncio loop in a thread: `add` only queues, the core runs on its own, and `step`
hands over what has finished. A weight update pauses the scheduler with every request kept, and all workers map one file of
buckets (in shared memory where there is room), so the bytes are written once whatever the number of GPUs.

Order of execution follows the core's own clock: repeating a run bit for bit needs the in-process engine.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.errors import DeadlineExceeded, EnvironmentMissing, WeightSyncError
from rayrl.rollout import vllm_bridge as bridge
from rayrl.rollout.canary import canary_report
from rayrl.rollout.memory_lease import MemoryLease
from rayrl.rollout.vllm_stamps import TokenStamps
from rayrl.sync.plan import check_compatible
from rayrl.types import FloatArray, GenerationRequest, GenerationResult, IntArray, SyncReport, VersionSpan, WeightUpdate

T = TypeVar("T")

STEP_WAIT_S = 0.02
"""`step` returns after this long also when nothing finished, so that its caller can do other work."""


class AsyncVllmEngine:
    """Fulfils `protocols.Engine`; on GPUs it can `sleep`. ``call_s`` limits every call to the core, in seconds.

    ``transport`` nccl or ipc: weights come through vLLM's own transfer engine, after `join_transfer`; those that come through
    the store are taken all the same.
    """

    def __init__(
        self, model: ModelConfig, rollout: RolloutConfig, *, seed: int = 0, transport: str = "store", call_s: float = 300.0
    ) -> None:
        bridge.prepare_environment(in_process=False, compile_model=not rollout.enforce_eager, transport=transport)
        from vllm import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._on_cpu = current_platform.is_cpu()
        arguments = bridge.engine_arguments(model, rollout, seed=seed, cpu=self._on_cpu, transport=transport)
        self._max_length, self._call_s, self._transport = model.max_length, call_s, transport
        self._shapes = bridge.expected_shapes(model)
        self._version, self._lease = 0, MemoryLease()
        self._alive: set[str] = set()
        self._tasks: set[asyncio.Task] = set()  # asyncio itself keeps only weak references
        self._finished: SimpleQueue[GenerationResult | tuple[str, BaseException]] = SimpleQueue()
        self._slots = asyncio.Semaphore(rollout.max_running)  # vLLM's one further slot is for scoring
        self._scored = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm-loop", daemon=True).start()

        async def start() -> AsyncLLM:
            return AsyncLLM.from_engine_args(
                AsyncEngineArgs(**arguments, enable_sleep_mode=not self._on_cpu), usage_context=UsageContext.LLM_CLASS
            )

        self._llm = self._wait(start(), "starting")
        stamps_itself = hasattr(self._llm, "update_weight_version")  # vLLM 0.32 does, 0.26 does not
        self._stamps = None if stamps_itself else TokenStamps(self._llm.output_processor)
        self._start: dict[str, Any] = {}
        self._wait(self._stamp(0), "setting the first weight version")

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        for r in requests:
            if not 0 < r.token_ids.shape[0] < self._max_length:
                raise ValueError(f"prompt of {r.token_ids.shape[0]} tokens does not fit a context of {self._max_length} (model.max_length)")
        self._alive.update(r.id for r in requests)
        inputs = [(r.id, bridge.prompt(r, self._version), bridge.sampling(r.sampling)) for r in requests]
        self._loop.call_soon_threadsafe(self._launch, inputs)

    def step(self) -> list[GenerationResult]:
        """Finished results; raises what a request raised."""
        results: list[GenerationResult] = []
        wait_s = STEP_WAIT_S if self._alive else 0.0
        try:
            while True:
                item = self._finished.get(timeout=wait_s) if wait_s else self._finished.get_nowait()
                wait_s = 0.0
                name = item[0] if isinstance(item, tuple) else item.id
                if name not in self._alive:  # aborted meanwhile
                    continue
                self._alive.discard(name)
                if isinstance(item, tuple):
                    raise item[1]
                results.append(item)
        except Empty:
            return results

    def abort(self, ids: Sequence[str]) -> None:
        known = [i for i in ids if i in self._alive]
        self._alive.difference_update(known)
        self._wait(self._llm.abort(known), "aborting requests")

    def reseed(self, seed: int) -> None:
        self._wait(self._llm.collective_rpc("rayrl_seed", args=(seed,)), "reseeding")
        if not self._alive:
            self._wait(self._llm.reset_prefix_cache(), "resetting the prefix cache")

    def join_transfer(self, address: str, rank_offset: int, world_size: int, buffer_bytes: int, *, packed: bool = True) -> None:
        """Meets the learner's rank 0 and all other engines at ``host:port``, while each of them does the same."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._start = bridge.transfer_start(self._transport, address, rank_offset, world_size, buffer_bytes, packed=packed)
        request = WeightTransferInitRequest(bridge.understood(self._transport, self._start))
        self._wait(self._llm.init_weight_transfer_engine(request), "joining the weight transfer")

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        check_compatible(update.manifest, self._shapes)
        what = f"loading weight update {update.manifest.version}"
        if update.transport == "store":
            with _mapped(update.buckets) as path:
                load = self._llm.collective_rpc("rayrl_load_file", args=(pickle.dumps(update.manifest), path))
                paused_s, load_s = self._wait(self._between_steps(load, update), what)
        else:
            paused_s, load_s = self._wait(self._between_steps(self._receive(update), update), what)
        self._version = update.manifest.version
        return canary_report(update, self.logprobs, paused_s=paused_s, load_s=load_s)

    def logprobs(self, token_ids: IntArray) -> FloatArray:
        self._scored += 1
        request = {"type": "token", "prompt_token_ids": token_ids.tolist()}
        output = self._wait(self._final(f"score-{self._scored}", request, bridge.scoring()), "scoring a prompt")
        return bridge.prompt_logprobs(output)

    def sleep(self) -> int:
        """Drops weights and cache (vLLM's level 2): the learner's next update brings the weights back."""
        if self._on_cpu:
            raise EnvironmentMissing("a vLLM engine on CPU has no device memory to release", "set placement.mode=cpu")
        before = self._free_bytes()
        self._wait(self._llm.sleep(level=2), "sleeping")
        return self._lease.gave(before, self._free_bytes())

    def wake(self) -> None:
        """Raises `PlacementError` where others keep too much of the device."""
        self._lease.check(self._free_bytes())
        self._wait(self._llm.wake_up(), "waking up")

    def close(self) -> None:
        self._llm.shutdown()
        del self._llm
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def version(self) -> int:
        return self._version

    @property
    def num_running(self) -> int:
        return len(self._alive)

    def _free_bytes(self) -> int:
        return sum(self._wait(self._llm.collective_rpc("rayrl_free_bytes"), "asking for free memory"))

    def _launch(self, inputs: list[tuple[str, Any, Any]]) -> None:
        for name, prompt, params in inputs:
            task = self._loop.create_task(self._generate(name, prompt, params))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _generate(self, name: str, prompt: Any, params: Any) -> None:
        try:
            async with self._slots:
                if name not in self._alive:  # aborted while it waited
                    return
                output, spans = await self._stamped(name, prompt, params)
            if output.outputs[0].finish_reason != "abort":
                self._finished.put(bridge.result(output, spans))
        except Exception as error:
            self._finished.put((name, error))

    async def _stamped(self, name: str, prompt: Any, params: Any) -> tuple[Any, tuple[VersionSpan, ...] | None]:
        if self._stamps is None:
            return await self._final(name, prompt, params), None
        self._stamps.begin(name)
        length = 0
        try:
            output = await self._final(name, prompt, params)
            length = len(output.outputs[0].token_ids)
        finally:
            spans = self._stamps.end(name, length)
        return output, spans

    async def _final(self, name: str, prompt: Any, params: Any) -> Any:
        return [output async for output in self._llm.generate(prompt, params, name)][-1]

    async def _receive(self, update: WeightUpdate) -> None:
        """From GPU memory to GPU memory, by vLLM's own engine."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.start_weight_update()
        told = bridge.understood(self._transport, self._start, bridge.transfer_round(update))
        await self._llm.update_weights(WeightTransferUpdateRequest(told))
        await self._llm.finish_weight_update()
        await self._llm.collective_rpc("rayrl_repack_tied")

    async def _between_steps(self, load: Awaitable[Any], update: WeightUpdate) -> tuple[float, float]:
        """``(seconds generation stood still, seconds of loading)``."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        paused = time.perf_counter()
        try:
            await load
            loaded = time.perf_counter()
            await self._stamp(update.manifest.version)
        except Exception as error:
            raise WeightSyncError(str(error), "see the engine's log; it must be replaced unless only the digest was wrong") from error
        finally:
            await self._llm.resume_generation()
        return time.perf_counter() - paused, loaded - paused

    async def _stamp(self, version: int) -> None:
        """Tokens from here on are of ``version``."""
        if self._stamps is None:
            await self._llm.update_weight_version(str(version))
        else:
            self._stamps.cut(version)

    def _wait(self, call: Coroutine[Any, Any, T], what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result(timeout=self._call_s)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise DeadlineExceeded(f"vLLM's engine core: {what} took more than {self._call_s:.0f} s", "see the engine's log") from None


@contextmanager
def _mapped(buckets: Sequence[np.ndarray]) -> Iterator[str]:
    """A file with the buckets one after the other: in memory where it fits, else on disk."""
    nbytes, memory = sum(b.nbytes for b in buckets), Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * nbytes
    handle, path = tempfile.mkstemp(prefix="rayrl-weights-", dir=memory if roomy else None)
    try:
        with os.fdopen(handle, "wb") as file:
            for bucket in buckets:
                file.write(memoryview(bucket))
        yield path
    finally:
        os.unlink(path)
