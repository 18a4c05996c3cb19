"""vLLM with the engine core in this process: we drive its steps, and between two steps nothing runs. The engine of CPU machines.

Starts in seconds, costs no serialisation, and pausing for a weight update is simply not stepping. Requests in flight keep
their key/value cache over an update and continue under the new weights; vLLM stamps every token with the weight version.
A new request can never read cached blocks of an older version: blocks are looked up under a salt that names the version.

One engine per process: vLLM keeps process-wide state (thread settings, default process group).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.errors import EnvironmentMissing
from rayrl.rollout import vllm_bridge as bridge
from rayrl.rollout.canary import canary_report
from rayrl.sync.plan import check_compatible
from rayrl.types import FloatArray, GenerationRequest, GenerationResult, IntArray, SyncReport, WeightUpdate


class VllmEngine:
    """Fulfils `protocols.Engine`. Raises `ImportError` from the constructor where vLLM does not import."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, *, seed: int = 0) -> None:
        bridge.prepare_environment(in_process=True, compile_model=not rollout.enforce_eager)
        import torch
        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        self._torch, self._threads, self._thread = torch, rollout.cpu_threads or torch.get_num_threads(), 0
        self._enter_thread()
        arguments = EngineArgs(**bridge.engine_arguments(model, rollout, seed=seed, cpu=True))
        self._llm = LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS)  # the context sets vLLM's tokens per step: throughput
        self._max_length = model.max_length
        self._shapes = bridge.expected_shapes(model)
        self._version = 0
        self._llm.set_weight_version("0")
        self._max_running = rollout.max_running
        self._waiting: dict[str, GenerationRequest] = {}  # vLLM gets no more than it may run: its one further slot is for scoring
        self._alive: dict[str, str] = {}  # our request id -> vLLM's
        self._held: list[GenerationResult] = []  # finished while a canary was being scored
        self._scored = 0

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        for r in requests:
            if not 0 < r.token_ids.shape[0] < self._max_length:
                raise ValueError(f"prompt of {r.token_ids.shape[0]} tokens does not fit a context of {self._max_length} (model.max_length)")
        self._waiting.update((r.id, r) for r in requests)

    def step(self) -> list[GenerationResult]:
        self._enter_thread()
        while self._waiting and len(self._alive) < self._max_running:
            r = self._waiting.pop(next(iter(self._waiting)))
            self._alive[r.id] = self._llm.add_request(r.id, bridge.prompt(r, self._version), bridge.sampling(r.sampling))
        held, self._held = self._held, []
        return held + [self._finish(output) for output in self._llm.step()] if self._alive else held

    def abort(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._waiting = {name: r for name, r in self._waiting.items() if name not in gone}
        internal = [self._alive.pop(i) for i in ids if i in self._alive]
        self._llm.abort_request(internal, internal=True)
        self._held = [r for r in self._held if r.id not in gone]

    def reseed(self, seed: int) -> None:
        """Also empties the prefix cache when idle: a cached prefix is computed in other chunks and differs in the last bits."""
        self._llm.collective_rpc("rayrl_seed", args=(seed,))
        if not self._alive:
            self._llm.reset_prefix_cache()

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        check_compatible(update.manifest, self._shapes)
        self._enter_thread()
        started = time.perf_counter()
        self._llm.collective_rpc("rayrl_load", args=(update.manifest, update.buckets))
        self._version = update.manifest.version
        self._llm.set_weight_version(str(self._version))
        if not self._alive:  # otherwise the salt alone keeps old blocks out, and they age away
            self._llm.reset_prefix_cache()
        spent = time.perf_counter() - started
        return canary_report(update, self.logprobs, paused_s=spent, load_s=spent)

    def logprobs(self, token_ids: IntArray) -> FloatArray:
        """Other requests advance meanwhile; what they finish is returned by the next `step`. Draws no random numbers when idle."""
        self._enter_thread()
        self._scored += 1
        name = f"score-{self._scored}"
        random_state = self._torch.get_rng_state() if not self._alive else None
        request = {"type": "token", "prompt_token_ids": token_ids.tolist()}
        self._llm.add_request(name, request, bridge.scoring())
        scored = None
        while scored is None:
            for output in self._llm.step():
                if output.request_id == name:
                    scored = bridge.prompt_logprobs(output)
                else:
                    self._held.append(self._finish(output))
        if random_state is not None:
            self._torch.set_rng_state(random_state)
        return scored

    def sleep(self) -> int:
        raise EnvironmentMissing("a vLLM engine on CPU has no device memory to release", "set placement.mode=cpu")

    def wake(self) -> None:
        raise EnvironmentMissing("a vLLM engine on CPU does not sleep", "set placement.mode=cpu")

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    @property
    def version(self) -> int:
        return self._version

    @property
    def num_running(self) -> int:
        return len(self._waiting) + len(self._alive) + len(self._held)

    def _enter_thread(self) -> None:
        """OpenMP counts threads per calling thread, and vLLM's attention kernel aborts when two counts of one step differ."""
        if self._thread != threading.get_ident():
            self._torch._C.set_num_threads(self._threads)  # torch.set_num_threads itself is turned off once vLLM's worker exists
            self._thread = threading.get_ident()

    def _finish(self, output) -> GenerationResult:
        self._alive.pop(output.request_id)
        return bridge.result(output)
