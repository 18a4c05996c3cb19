"""The vocabulary of rayrl: the nouns that every room shares, as frozen dataclasses of numpy arrays.

Ids are the truth and text is a view: everything that is trained on travels as token ids from the moment it was sampled.
This module imports neither torch nor ray. Legend of shapes: ``P`` prompt tokens, ``T`` tokens of a whole sequence,
``N`` trajectories, ``G`` groups, ``n`` samples of one group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class FinishReason(StrEnum):
    """Why the policy stopped writing."""

    STOP = "stop"
    """An end-of-sequence token or a stop string."""
    LENGTH = "length"
    """The token limit of the request or of the context."""
    ABORT = "abort"
    """Cancelled by us; such a sample is never trained on."""
    ENV = "env"
    """The environment ended the episode (multi-turn)."""


class RewardStatus(StrEnum):
    PENDING = "pending"
    SCORED = "scored"
    FAILED = "failed"


class OrdinalState(StrEnum):
    """Life of a prompt ordinal in the ledger. ``TRAINED`` and ``DROPPED`` are terminal; every ordinal reaches one of them once."""

    QUEUED = "queued"
    IN_FLIGHT = "in_flight"
    BUFFERED = "buffered"
    LEASED = "leased"
    """Handed to the learner, its step not yet confirmed."""
    TRAINED = "trained"
    DROPPED = "dropped"


class VersionSpan(NamedTuple):
    """Tokens ``[start, end)`` of a sequence were sampled under weight version ``version``."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the policy is sampled. ``behavior_logprobs`` are those of the distribution that these settings define."""

    max_tokens: int = 64
    """Most tokens of one completion (one turn)."""
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means off."""
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    """Stop strings; they are kept in the completion, so that text and ids agree."""
    stop_token_ids: tuple[int, ...] = ()
    """Extra stop tokens beside the tokenizer's end-of-sequence token."""
    ignore_eos: bool = False
    """Keep sampling to ``max_tokens`` (benchmarks with forced lengths)."""
    seed: int | None = None
    """Seed of this request alone; None draws from the engine's generator."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, rendered to ids exactly once."""

    ordinal: int
    """Position in the endless prompt stream: monotonic, never reused, trained at most once."""
    token_ids: IntArray
    """int32[P], chat template and generation prompt included."""
    task: str = "default"
    """Name of the task; rewards and environments are chosen by it."""
    text: str = ""
    """What a person reads for the prompt (a view, never re-tokenised)."""
    ground_truth: str | None = None
    """What a verifier compares with."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the source row; JSON-serialisable."""


@dataclass(frozen=True, slots=True)
class PromptTask:
    """A prompt leased to a rollout worker: sample it ``n`` times."""

    prompt: Prompt
    n: int
    sampling: SamplingParams
    lease_id: str = ""
    max_tokens: tuple[int, ...] | None = None
    """Own token limit of each of the n samples; None uses ``sampling.max_tokens`` (benchmarks with forced lengths)."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Ids in: one completion asked of an engine."""

    id: str
    token_ids: IntArray
    """int32[P], everything the policy sees."""
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Ids out: one finished completion."""

    id: str
    token_ids: IntArray
    """int32[C], the sampled tokens, the end-of-sequence token included when it was sampled."""
    logprobs: FloatArray
    """float32[C], log-probability of each sampled token under the *sampled* distribution (after temperature, top-p, ...)."""
    finish_reason: FinishReason
    version_spans: tuple[VersionSpan, ...]
    """Cover ``[0, C)`` without gaps, versions ascending."""


@dataclass(frozen=True, slots=True)
class RewardRecord:
    """What one reward component says of one trajectory. A record that is not ``scored`` never carries a number."""

    component: str
    status: RewardStatus
    value: float | None = None
    """The trajectory's scalar reward; None unless scored. Always finite."""
    step_values: tuple[float, ...] | None = None
    """One value per policy turn or step, where the component scores steps."""
    producer: str = ""
    """Who said so: verifier name, judge model, reward-model name."""
    producer_version: str = ""
    latency_s: float = 0.0
    cost_usd: float = 0.0
    error: str = ""
    """Why it failed; empty when scored."""
    answer: str = ""
    """What the producer answered, word for word (a judge's completion, cut to a sensible length); empty where the value says it all."""

    def __post_init__(self) -> None:
        if (self.status is RewardStatus.SCORED) != (self.value is not None):
            raise ValueError(f"reward component {self.component!r}: a value exists exactly when the status is 'scored'")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"reward component {self.component!r}: value {self.value} is not finite; mark it failed")

    def __reduce__(self) -> tuple[Any, ...]:
        """Through its constructor: thousands travel every step, and the default for frozen classes looks every field up by name."""
        return RewardRecord, _FIELDS_OF_RECORD(self)


_FIELDS_OF_RECORD = attrgetter(*RewardRecord.__slots__)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sample of a language-model policy: prompt, policy turns and environment turns in one id sequence."""

    id: str
    """``<ordinal>/<sample>``."""
    ordinal: int
    sample: int
    """Index within its group, 0 … n-1."""
    token_ids: IntArray
    """int32[T]: prompt, then turns."""
    action_mask: BoolArray
    """bool[T]: True where the policy chose the token. Only these are trained on."""
    behavior_logprobs: FloatArray
    """float32[T]: log-probability under the sampled distribution; 0 where ``action_mask`` is False."""
    version_spans: tuple[VersionSpan, ...]
    """Cover every action token, in positions of ``token_ids``."""
    turns: tuple[tuple[int, int], ...]
    """``[start, end)`` of each policy turn, in positions of ``token_ids``."""
    finish_reason: FinishReason
    task: str = "default"
    text: str = ""
    """Decoded policy turns (a view for people and verifiers)."""
    prompt_text: str = ""
    ground_truth: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rewards: tuple[RewardRecord, ...] = ()

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_action_tokens(self) -> int:
        return int(self.action_mask.sum())

    @property
    def oldest_version(self) -> int:
        """The version that staleness counts from."""
        return min(span.version for span in self.version_spans)


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """What the buffer knows of a finished group without touching its payload. Arrays run over the group's n samples."""

    ordinal: int
    payload: Any
    """Reference to an Arrow record batch of the group's trajectories in the object store (opaque to the buffer)."""
    nbytes: int
    lengths: IntArray
    """int32[n]: tokens of each sequence."""
    action_tokens: IntArray
    """int32[n]."""
    oldest_version: int
    """Smallest weight version in any sample's spans."""
    newest_version: int
    task: str = "default"
    finish_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group that is ready for the learner."""

    info: GroupInfo
    components: Mapping[str, FloatArray]
    """float32[n] per reward component; NaN only where the component failed and the policy for failures allows it."""
    rewards: FloatArray
    """float32[n]: the aggregated reward."""
    kept: BoolArray
    """bool[n]: False for samples that must not be trained on (failed score, aborted)."""
    step_values: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """For each component that scores steps: one tuple per sample, one value per step; empty where it failed."""


@dataclass(frozen=True, slots=True)
class DroppedGroup:
    """A finished group that nobody trains on, kept for the record."""

    info: GroupInfo
    reason: str
    records: Sequence[Sequence[RewardRecord]]
    """One list per sample; incomplete where the group was dropped before it was scored."""
    rewards: FloatArray | None = None
    """float32[n]: the aggregated reward; None where the group was dropped before it had one."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the buffer remembers for the archive: who rewarded a group, and what was thrown away."""

    records: Mapping[int, Sequence[Sequence[RewardRecord]]]
    """By ordinal: one list of reward records per sample."""
    dropped: Sequence[DroppedGroup]
    """Dropped since the last time somebody asked, oldest first."""
    forgotten: int = 0
    """Groups dropped since then that are not in ``dropped``, because only so many are kept."""


@dataclass(frozen=True, slots=True)
class LearnBatch:
    """What one learner step trains on. Payloads stay in the object store; each rank fetches the groups of its own shard."""

    step: int
    version: int
    """Weight version that the learner holds when it trains on this batch."""
    groups: tuple[ScoredGroup, ...]
    """Sorted by ordinal, so that the same set of groups is the same batch."""

    @property
    def ordinals(self) -> list[int]:
        return [g.info.ordinal for g in self.groups]

    @property
    def num_trajectories(self) -> int:
        return int(sum(g.kept.sum() for g in self.groups))

    @property
    def num_action_tokens(self) -> int:
        """Tokens trained on: those that the policy chose, of kept trajectories."""
        return int(sum(g.info.action_tokens[g.kept].sum() for g in self.groups))

    def staleness(self) -> IntArray:
        """int32[G]: trained version minus oldest version in the group's spans."""
        return np.array([self.version - g.info.oldest_version for g in self.groups], dtype=np.int32)


class Gathering(NamedTuple):
    """What the buffer tells a driver that waits for a batch."""

    batch: LearnBatch | None
    """None: not complete yet."""
    outstanding: Mapping[str, int]
    """See `BufferCore.outstanding`."""
    progress: int
    """Grows with every result, reward, drop, failure and confirmation: the same again means that nothing happened."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies in the buckets of a weight update."""

    name: str
    """Parameter name as in the Hugging Face checkpoint."""
    shape: tuple[int, ...]
    dtype: str
    """torch dtype name without the prefix, e.g. ``bfloat16``."""
    bucket: int
    offset: int
    """Bytes from the start of the bucket."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """The plan of one weight update: both sides know names, shapes, dtypes and digests before the first byte moves."""

    version: int
    tensors: tuple[TensorSpec, ...]
    bucket_nbytes: tuple[int, ...]
    digests: tuple[str, ...]
    """xxh3-128 of each bucket's bytes; empty where they never leave GPU memory: the canary alone is the proof there."""

    @property
    def nbytes(self) -> int:
        return sum(self.bucket_nbytes)

    @property
    def digest(self) -> str:
        return "-".join(d[:8] for d in self.digests)


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """A manifest and where its bytes are."""

    manifest: WeightManifest
    buckets: Sequence[Any]
    """One reference (or uint8 array) per bucket; empty where the bytes go from GPU to GPU."""
    canary_token_ids: IntArray | None = None
    """int32[P]: a fixed prompt whose log-probs both sides compute."""
    canary_logprobs: FloatArray | None = None
    """float32[P-1]: the learner's log-probs of ``canary_token_ids[1:]`` under these weights."""
    transport: str = "store"
    """store: the buckets lie in the object store; nccl: the learner broadcasts them; ipc: engines open the learner's GPU memory."""
    handles: bytes = b""
    """ipc: pickled CUDA IPC handles of every tensor, in the manifest's order."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one engine proves after it loaded a weight update."""

    version: int
    digest: str
    """Of the bytes the engine read."""
    paused_s: float
    """How long generation stood still."""
    load_s: float
    canary_gap: float | None
    """Mean |engine - learner| log-prob of the canary, nats; None where no canary was sent."""
    canary_logprobs: FloatArray | None = None
