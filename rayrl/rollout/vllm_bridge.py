"""Our vocabulary in vLLM's words and back: engine arguments, sampling parameters, prompts, finished outputs.

Shared by the in-process engine (`vllm.py`) and the one in a process of its own (`vllm_async.py`). Import it only after
`prepare_environment`: vLLM reads most of its environment variables when it is imported.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.sync.plan import wire_items
from rayrl.types import FinishReason, FloatArray, GenerationRequest, GenerationResult, SamplingParams, VersionSpan, WeightUpdate

if TYPE_CHECKING:
    import vllm

EXTENSION = "rayrl.rollout.vllm_worker.WeightLoader"


def prepare_environment(*, in_process: bool, compile_model: bool, transport: str = "store") -> None:
    """Environment variables that vLLM reads at import. Values a user has set win, but for the process layout."""
    if transport == "ipc":  # CUDA handles reach the workers pickled; they come from the learner alone
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a role has threads, and perhaps CUDA: no forking
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two engines on one machine would bind to the same cores
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not compile_model:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # the sampler's small compiled functions cost 5 to 25 s at first use


def engine_arguments(model: ModelConfig, rollout: RolloutConfig, *, seed: int, cpu: bool, transport: str = "store") -> dict[str, Any]:
    """Keyword arguments of vLLM's `EngineArgs`. ``transport`` nccl or ipc adds vLLM's own weight transfer engine to its workers."""
    from vllm.config import WeightTransferConfig

    cache = (
        ("kv_cache_memory_bytes", int(rollout.kv_cache_gib * 2**30)) if cpu else ("gpu_memory_utilization", rollout.gpu_memory_utilization)
    )
    return dict([cache]) | {
        "model": model.path,
        "tokenizer": model.tokenizer or model.path,
        "trust_remote_code": model.trust_remote_code,
        "dtype": model.dtype,
        "seed": seed,
        "max_model_len": model.max_length,
        "max_num_seqs": rollout.max_running + 1,  # one for a prompt that is scored while all others are taken
        "enforce_eager": rollout.enforce_eager,
        "enable_prefix_caching": rollout.prefix_caching,
        "tensor_parallel_size": rollout.tensor_parallel,
        "logprobs_mode": "processed_logprobs",  # of the distribution that was sampled from
        "worker_extension_cls": EXTENSION,
        "disable_log_stats": True,
        "weight_transfer_config": None if transport == "store" else WeightTransferConfig(backend=transport),
    }


def transfer_start(transport: str, address: str, rank_offset: int, world_size: int, buffer_bytes: int, *, packed: bool) -> dict[str, Any]:
    """What vLLM's transfer engine is told before the first update. ``rank_offset``: rank of this engine's first worker in the group."""
    if transport == "ipc":
        return {"packed": False}
    host, _, port = address.rpartition(":")
    return {
        "master_address": host,
        "master_port": int(port),
        "rank_offset": rank_offset,
        "world_size": world_size,
        "packed": packed,
        "packed_buffer_size_bytes": buffer_bytes,
    }


def transfer_round(update: WeightUpdate) -> dict[str, Any]:
    """What vLLM's transfer engine is told of one update."""
    tensors = update.manifest.tensors
    told: dict[str, Any] = {
        "names": [t.name for t in tensors],
        "dtype_names": [t.dtype for t in tensors],
        "shapes": [list(t.shape) for t in tensors],
    }
    if update.transport == "ipc":
        told["ipc_handles_pickled"] = base64.b64encode(update.handles).decode("ascii")
    return told


def understood(transport: str, start: dict[str, Any], told: dict[str, Any] | None = None) -> dict[str, Any]:
    """``start``, or the round ``told``, in the fields that this vLLM has: to 0.26 how tensors are packed is said in every round."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

    engine = IPCWeightTransferEngine if transport == "ipc" else NCCLWeightTransferEngine
    wanted = engine.init_info_cls if told is None else engine.update_info_cls
    return {name: value for name, value in (start | (told or {})).items() if name in wanted.__dataclass_fields__}


def expected_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the Hugging Face checkpoint, from an instance without storage."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return {name: tuple(p.shape) for name, p in wire_items(empty.named_parameters(), tied=tied)}


def prompt(request: GenerationRequest, version: int) -> dict[str, Any]:
    """Token ids, salted with the weight version: cached key/value blocks are found only by requests of the same version."""
    from vllm.inputs.engine import tokens_input

    return tokens_input(request.token_ids.tolist(), cache_salt=f"v{version}")


def sampling(params: SamplingParams) -> vllm.SamplingParams:
    """Text is produced only where a stop string needs it; intermediate outputs never."""
    from vllm import SamplingParams as VllmSampling
    from vllm.sampling_params import RequestOutputKind

    return VllmSampling(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        stop=list(params.stop) or None,
        stop_token_ids=list(params.stop_token_ids) or None,
        ignore_eos=params.ignore_eos,
        seed=params.seed,
        logprobs=0,
        flat_logprobs=True,
        detokenize=bool(params.stop),
        include_stop_str_in_output=True,
        skip_clone=True,  # made for one request: vLLM need not copy it
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring() -> vllm.SamplingParams:
    """Parameters of a request that only asks for the log-probs of its prompt (greedy: it draws no random number)."""
    from vllm import SamplingParams as VllmSampling
    from vllm.sampling_params import RequestOutputKind

    return VllmSampling(
        max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )


def result(output: vllm.RequestOutput, spans: tuple[VersionSpan, ...] | None = None) -> GenerationResult:
    """A finished output; ``spans`` where vLLM does not stamp its tokens."""
    completion = output.outputs[0]
    return GenerationResult(
        id=output.request_id,
        token_ids=np.array(completion.token_ids, dtype=np.int32),
        logprobs=np.array(completion.logprobs.logprobs, dtype=np.float32),
        finish_reason=FinishReason(completion.finish_reason),
        version_spans=tuple(VersionSpan(int(s.version), s.start, s.end) for s in completion.weight_versions) if spans is None else spans,
    )


def prompt_logprobs(output: vllm.RequestOutput) -> FloatArray:
    """float32[P-1] of a finished `scoring` output. vLLM's first entry, of the first token, is empty."""
    return np.array(output.prompt_logprobs.logprobs, dtype=np.float32)
