"""A Hugging Face model as an engine: continuous batching with a key/value cache, no compiled kernels. Runs wherever torch runs.

Every step decodes one token for each running row; rows that finish leave the batch and the cache at once, and waiting
requests take their place in the next step. Samples of one prompt share its prefill. Rows are padded on the left in the cache
only (`row_cache`): no linear layer ever sees a padded position while decoding.

A weight update keeps the cache of running rows, like vLLM's pause mode ``keep``: their old tokens stay encoded by the old
weights, new tokens come from the new ones. New requests are always prefilled anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.errors import EnvironmentMissing
from rayrl.rollout.canary import canary_report
from rayrl.rollout.folded_attention import FOLDED
from rayrl.rollout.row_cache import RowCache
from rayrl.rollout.sampling import draw, processed_logprobs
from rayrl.sync.plan import check_compatible, unpack, verify, wire_items
from rayrl.types import FinishReason, FloatArray, GenerationRequest, GenerationResult, IntArray, SyncReport, VersionSpan, WeightUpdate


@dataclass
class _Row:
    request: GenerationRequest
    limit: int
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)
    """``(version, first token sampled under it)``."""

    @property
    def cached(self) -> int:
        """Positions in the cache: everything but the token sampled last."""
        return self.request.token_ids.shape[0] + len(self.tokens) - 1


class TorchEngine:
    """Fulfils `protocols.Engine`. Uses a GPU where there is one."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, *, seed: int = 0) -> None:
        if rollout.cpu_threads:
            torch.set_num_threads(rollout.cpu_threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = AutoModelForCausalLM.from_pretrained(
            model.path, dtype=getattr(torch, model.dtype), trust_remote_code=model.trust_remote_code
        )
        self._model.to(self._device).eval()
        if self._model.config._attn_implementation == "sdpa":
            self._model.set_attn_implementation(FOLDED)
        self._tokenizer = AutoTokenizer.from_pretrained(model.tokenizer or model.path, trust_remote_code=model.trust_remote_code)
        self._eos = _eos_ids(self._model, self._tokenizer)
        tied = bool(getattr(self._model.config, "tie_word_embeddings", False))
        self._parameters = dict(wire_items(self._model.named_parameters(), tied=tied))
        self._max_length, self._max_running = model.max_length, rollout.max_running
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._cache: RowCache | None = None
        self._version = 0
        self._shared = torch.Generator(self._device)
        self.reseed(seed)

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        for r in requests:
            if not 0 < r.token_ids.shape[0] < self._max_length:
                raise ValueError(f"prompt of {r.token_ids.shape[0]} tokens does not fit a context of {self._max_length} (model.max_length)")
        for r in requests:
            generator = None if r.sampling.seed is None else torch.Generator(self._device).manual_seed(r.sampling.seed)
            limit = min(r.sampling.max_tokens, self._max_length - r.token_ids.shape[0])
            self._waiting.append(_Row(r, limit, generator))

    @torch.inference_mode()
    def step(self) -> list[GenerationResult]:
        logits = [self._decode()] if self._rows else []
        fresh = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_running - len(self._rows)))]
        if fresh:
            logits.append(self._prefill(fresh))
        if not logits:
            return []
        self._sample(torch.cat(logits))
        reasons = [self._finish_reason(row) for row in self._rows]
        done = [_result(row, reason) for row, reason in zip(self._rows, reasons, strict=True) if reason is not None]
        if done:
            self._keep([i for i, reason in enumerate(reasons) if reason is None])
        return done

    @torch.inference_mode()
    def abort(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._waiting = deque(row for row in self._waiting if row.request.id not in gone)
        self._keep([i for i, row in enumerate(self._rows) if row.request.id not in gone])

    def reseed(self, seed: int) -> None:
        self._shared.manual_seed(seed)

    @torch.no_grad()
    def update_weights(self, update: WeightUpdate) -> SyncReport:
        check_compatible(update.manifest, {name: p.shape for name, p in self._parameters.items()})
        started = time.perf_counter()
        verify(update.manifest, update.buckets)
        for name, tensor in unpack(update.manifest, update.buckets):
            self._parameters[name].copy_(tensor)
        self._version = update.manifest.version
        spent = time.perf_counter() - started
        return canary_report(update, self.logprobs, paused_s=spent, load_s=spent)

    @torch.inference_mode()
    def logprobs(self, token_ids: IntArray) -> FloatArray:
        ids = torch.from_numpy(np.asarray(token_ids, np.int64)).to(self._device)
        logprobs = self._model(ids[None]).logits[0, :-1].float().log_softmax(-1)
        return logprobs.gather(-1, ids[1:, None])[:, 0].cpu().numpy()

    def sleep(self) -> int:
        raise EnvironmentMissing("the torch engine does not release memory", "use rollout.engine=vllm on GPUs for placement.mode=colocated")

    def wake(self) -> None:
        raise EnvironmentMissing("the torch engine does not sleep", "use rollout.engine=vllm on GPUs for placement.mode=colocated")

    def close(self) -> None:
        self._waiting.clear()
        self._rows, self._cache = [], None

    @property
    def version(self) -> int:
        return self._version

    @property
    def num_running(self) -> int:
        return len(self._waiting) + len(self._rows)

    def _decode(self) -> torch.Tensor:
        """float[B, V]: logits after the token that each running row sampled last."""
        width = self._cache.get_seq_length() + 1
        tokens = torch.tensor([[row.tokens[-1]] for row in self._rows], device=self._device)
        positions = torch.tensor([[row.cached] for row in self._rows], device=self._device)
        mask = torch.arange(width, device=self._device)[None] >= width - 1 - positions  # left padding is not attended to
        return self._model(tokens, attention_mask=mask.long(), position_ids=positions, past_key_values=self._cache).logits[:, -1]

    def _prefill(self, fresh: list[_Row]) -> torch.Tensor:
        """float[F, V]: logits after the prompts of ``fresh``, which join the batch. Equal prompts are computed once."""
        unique: dict[bytes, int] = {}
        owner = [unique.setdefault(row.request.token_ids.tobytes(), len(unique)) for row in fresh]
        prompts = [np.frombuffer(p, dtype=fresh[0].request.token_ids.dtype) for p in unique]
        width = max(p.shape[0] for p in prompts)
        ids, mask = np.zeros((2, len(prompts), width), dtype=np.int64)
        for i, p in enumerate(prompts):
            ids[i, width - p.shape[0] :], mask[i, width - p.shape[0] :] = p, 1
        positions = np.maximum(mask.cumsum(-1) - 1, 0)
        ids_t, mask_t, positions_t = (torch.from_numpy(a).to(self._device) for a in (ids, mask, positions))
        cache = DynamicCache(config=self._model.config)
        out = self._model(ids_t, attention_mask=mask_t, position_ids=positions_t, past_key_values=cache, logits_to_keep=1)
        index = torch.tensor(owner, device=self._device)
        if self._cache is None:
            self._cache = RowCache(len(cache.layers))
        self._cache.join(cache, index)
        self._rows += fresh
        return out.logits[index, -1]

    def _sample(self, logits_BV: torch.Tensor) -> None:
        params = [row.request.sampling for row in self._rows]
        logprobs = processed_logprobs(logits_BV, params)
        tokens = draw(logprobs, params, self._shared, [row.generator for row in self._rows])
        chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
        for row, token, logprob in zip(self._rows, tokens.tolist(), chosen.tolist(), strict=True):
            if not row.starts or row.starts[-1][0] != self._version:
                row.starts.append((self._version, len(row.tokens)))
            row.tokens.append(token)
            row.logprobs.append(logprob)

    def _finish_reason(self, row: _Row) -> FinishReason | None:
        sampling, last = row.request.sampling, row.tokens[-1]
        if last in sampling.stop_token_ids or (last in self._eos and not sampling.ignore_eos):
            return FinishReason.STOP
        if sampling.stop and any(s in self._tokenizer.decode(row.tokens, skip_special_tokens=True) for s in sampling.stop):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(row.tokens) >= row.limit else None

    def _keep(self, rows: list[int]) -> None:
        """Drops all other rows and the padding that only they needed."""
        if len(rows) == len(self._rows):
            return
        if not rows:
            self._rows, self._cache = [], None
            return
        self._rows = [self._rows[i] for i in self._cache.leave(rows, max(self._rows[i].cached for i in rows))]


def _eos_ids(model, tokenizer) -> frozenset[int]:
    """The tokenizer's end-of-sequence token and those of the checkpoint's generation config."""
    listed = model.generation_config.eos_token_id
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _result(row: _Row, reason: FinishReason) -> GenerationResult:
    ends = [start for _, start in row.starts[1:]] + [len(row.tokens)]
    return GenerationResult(
        row.request.id,
        np.array(row.tokens, dtype=np.int32),
        np.array(row.logprobs, dtype=np.float32),
        reason,
        tuple(VersionSpan(version, start, end) for (version, start), end in zip(row.starts, ends, strict=True)),
    )
