"""Contracts where rooms meet. A role is a plain class that fulfils one of these; `runtime/` decides where it runs.

No implementation, no torch, no ray: only what one room may expect of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rayrl.agent_types import EnvSpec, Observation, RatingModel, RunningEpisodes, StepResult
from rayrl.annotations import Annotation, JudgeAnswer, LabelSnapshot, Question
from rayrl.types import (
    FloatArray,
    Gathering,
    GenerationRequest,
    GenerationResult,
    GroupInfo,
    IntArray,
    LearnBatch,
    Outcomes,
    Prompt,
    PromptTask,
    RewardRecord,
    SamplingParams,
    SyncReport,
    Trajectory,
    WeightUpdate,
)


@runtime_checkable
class Engine(Protocol):
    """Generates tokens. Not thread-safe: one thread owns it and calls `step` in a loop; pausing is not stepping.

    `update_weights` is called between two steps, also with requests in flight: they continue under the new version and
    their spans say so. No key/value prefix computed under an old version serves a request added after the update.
    """

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        """Queues requests. Raises `ValueError` for a prompt that does not fit the context."""

    def step(self) -> list[GenerationResult]:
        """Advances all running requests (about one token each) and returns those that finished."""

    def abort(self, ids: Sequence[str]) -> None:
        """Forgets requests, finished or not; unknown ids are ignored."""

    def reseed(self, seed: int) -> None:
        """Sets the engine's generator; with equal requests added in equal order after it, outputs are equal."""

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Loads the weights of ``update`` (its buckets are uint8 arrays by now), verifies, and reports."""

    def logprobs(self, token_ids: IntArray) -> FloatArray:
        """float32[P-1]: log-probs (temperature 1) of ``token_ids[1:]`` given their prefixes under the present weights."""

    def sleep(self) -> int:
        """Releases device memory for a colocated learner; returns the bytes freed (measured)."""

    def wake(self) -> None:
        """Takes the memory back. Weights must be updated before the next step."""

    def close(self) -> None: ...

    @property
    def version(self) -> int: ...

    @property
    def num_running(self) -> int:
        """Requests added and not finished."""


class Store(Protocol):
    """The object store. A reference can be passed in any message; `get` reads without copying where it can."""

    def put(self, value: Any) -> Any:
        """A reference owned by the caller: it lives as long as the caller's process."""

    def offer(self, value: Any) -> Any:
        """A ticket for a value that another role will own: whoever adopts it."""

    def adopt_all(self, tickets: Sequence[Any]) -> list[Any]:
        """Turns tickets into references owned by the caller, so that they outlive the processes that made the values."""

    def get(self, ref: Any, *, timeout_s: float) -> Any: ...

    def get_all(self, refs: Sequence[Any], *, timeout_s: float) -> list[Any]:
        """Several at once, which costs less than one after the other; fails when one of them fails."""


class ReplayBuffer(Protocol):
    """The buffer service as rollout workers, scorers and the driver see it. Every wait has a limit; an empty list means 'nothing yet'."""

    def admit(self, tasks: Sequence[PromptTask]) -> None: ...

    def lease_prompts(self, worker: str, index: int, max_groups: int, wait_s: float) -> list[PromptTask]: ...

    def put_groups(
        self, worker: str, groups: Sequence[GroupInfo], records: Mapping[int, Sequence[Sequence[RewardRecord]]] | None = None
    ) -> list[bool]: ...

    def fail_prompts(self, worker: str, ordinals: Sequence[int], reason: str) -> None: ...

    def lease_unscored(self, scorer: str, component: str, max_groups: int, wait_s: float) -> list[GroupInfo]: ...

    def put_rewards(self, scorer: str, rewards: Mapping[int, Sequence[Sequence[RewardRecord]]]) -> None: ...

    def still_unscored(self, ordinals: Sequence[int]) -> list[int]: ...

    def still_ready(self, ordinals: Sequence[int]) -> list[int]: ...

    def revise_rewards(self, rewards: Mapping[int, Sequence[Sequence[RewardRecord]]]) -> list[int]: ...

    def sample(self, step: int, version: int, groups: int, wait_s: float) -> LearnBatch | None: ...

    def gather(self, tasks: Sequence[PromptTask], step: int, version: int, groups: int, wait_s: float) -> Gathering: ...

    def confirm_trained(self, step: int, ordinals: Sequence[int]) -> Mapping[str, int]: ...

    def take_outcomes(self, ordinals: Sequence[int]) -> Outcomes: ...


class PromptSource(Protocol):
    """An endless, resumable stream of prompts: `take` continues at `position` and the same position gives the same prompts."""

    def take(self, count: int) -> list[Prompt]: ...

    @property
    def position(self) -> int:
        """Ordinal of the next prompt."""

    def seek(self, ordinal: int) -> None: ...


class Verifier(Protocol):
    """A reward as a plain function of one trajectory's view. May raise or return NaN: both count as failed, never as a number."""

    def __call__(self, completion: str, ground_truth: str | None, **kwargs: Any) -> float: ...


class TextEnv(Protocol):
    """A multi-turn environment for a language-model policy. One instance serves one episode."""

    def observe(self, action_text: str, action_ids: IntArray) -> tuple[str | None, bool]:
        """Answers the policy's turn with ``(observation text or None, done)``. Observation tokens are never trained on."""


class AgentEnv(Protocol):
    """A Gymnasium environment for an environment agent: the five-tuple step, plus a descriptor and the message of an observation.

    A time limit is ``truncated``, never ``terminated``. Equal seeds and actions give equal episodes. At the last step of an episode
    ``info`` may hold ``end_reason`` (a word) and ``episode_sums`` (name -> number). Arrays of an observation may be buffers that the
    next call overwrites. An environment may also have ``together(envs, arrays)``, which returns a function that writes the present
    observations of several of its kind into arrays [K, ...]; what `step` and `reset` return of them is stale from then on.
    """

    @property
    def agent_spec(self) -> EnvSpec: ...

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]: ...

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]: ...

    def message(self, observation: Observation) -> bytes:
        """What the observation that the last call returned says, without padding; empty where it says nothing."""

    def close(self) -> None: ...


class Sampler(Protocol):
    """K environments stepped as one, with automatic reset. See `envs/vector.py`."""

    spec: EnvSpec
    num_envs: int
    message_hash: NDArray[np.uint64]
    """uint64[K]: xxh3-64 of the present observations' messages as they are judged, 0 where there is none."""
    message_count: IntArray
    """int32[K]: sightings of exactly the message shown in the running episode, this one included; 1 is the episode's first sighting."""

    def reset(self) -> None: ...

    def observations(self) -> Mapping[str, NDArray[Any]]:
        """What the policy must act in now, ``[K, *shape]`` per name. Views that the next step overwrites."""

    def step(self, actions: IntArray | Sequence[int]) -> StepResult: ...

    def take_texts(self) -> dict[int, bytes]:
        """Messages seen for the first time since the last call, by hash."""

    def repeat_texts(self) -> None:
        """`take_texts` gives every message seen so far again: whoever took them has lost them."""

    def running(self) -> RunningEpisodes:
        """Where every environment is; the policy's state is not the sampler's to know, and zero."""

    def replay(self, episodes: RunningEpisodes) -> None:
        """Goes there: the same seeds, the same actions. For an environment that its seed and its actions determine."""

    def close(self) -> None: ...


class Learner(Protocol):
    """One rank of the learner group. All ranks get the same calls in the same order."""

    def step(self, batch: LearnBatch, reference: Sequence[Any] | None) -> Mapping[str, float]:
        """Trains on ``batch``; ``reference`` holds one reference-log-prob payload per group. Returns global metrics."""

    def token_records(self) -> Any | None:
        """For the archive: a store reference to a record batch with the columns ``ordinal``, ``sample`` and any per-token lists of the
        step before, or None."""

    def export_weights(self, version: int, canary_token_ids: IntArray | None) -> WeightUpdate | None:
        """Rank 0 puts the policy's weights into the store and returns the update; other ranks take part and return None."""

    def begin_save(self, folder: Path) -> None:
        """Starts to write everything that is needed to continue bit for bit (model, optimiser, schedule, random states), as it is now;
        returns at once."""

    def saved(self) -> Mapping[str, Any]:
        """How far the newest save is: ``done``, ``error``, ``paused_s``, ``write_s``, ``bytes``. Any thread may ask."""

    def load(self, folder: Path) -> None: ...

    def save_pretrained(self, folder: Path) -> None:
        """Writes a Hugging Face checkpoint (rank 0)."""


class Reference(Protocol):
    """Log-probs of a frozen policy."""

    def logprobs(self, groups: Sequence[GroupInfo]) -> list[Any]:
        """One store reference per group: float32 arrays, ragged as the group's trajectories (position t holds the log-prob
        of token t given its prefix; 0 where ``action_mask`` is False)."""


class RewardScorer(Protocol):
    @property
    def components(self) -> Sequence[str]:
        """Names of the reward components that `score` fills, in its order."""

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """One list of records per trajectory, one record per component. Never raises for a bad sample."""


class Judge(Protocol):
    """A language model that is asked one prompt at a time. All calls are made from one asyncio loop; many may run at once."""

    @property
    def model(self) -> str:
        """Part of every question's identity: another model is another question."""

    async def answer(self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams, deadline_s: float) -> JudgeAnswer:
        """Asks ``messages`` ({role, content}) once and waits at most ``deadline_s`` seconds.

        Raises `feedback.judges.JudgeError`, which says whether asking again can help and how long to wait before.
        """

    async def close(self) -> None: ...


class Annotator(Protocol):
    """The role that owns the label store and the judge. Every call is cheap, bounded and returns at once, whatever the judge does,
    except for a ``wait_s`` that the caller chooses.

    A question is its content (template, goal, model, context, texts): asking it again, from anywhere and after any restart,
    gives the label that is there. Keys of texts are ``xxh3_64(bytes)`` for a text without context.
    """

    def sight(
        self, texts: Mapping[int, bytes | str], sightings: Mapping[int, int], first_sightings: Mapping[int, int] | None = None
    ) -> list[int]:
        """Tells what an environment showed since the last call.

        Args:
            texts: text of each key that is new to the caller. Bytes are read as latin-1.
            sightings: how often each key was shown. A key whose text was sent before needs no text again.
            first_sightings: in how many episodes a key was shown for the first time in that episode; None counts as 0.

        Returns the keys whose text the store does not have: send their texts with the next call.
        Raises `ValueError` for a key that is not the xxh3-64 of its text.
        """

    def offer_pairs(self, pairs: Sequence[Question]) -> int:
        """Questions with two texts that would be worth a comparison; returns how many are new. Equal texts are refused and counted."""

    def ask(self, questions: Sequence[Question], template: str | None = None, wait_s: float = 0.0) -> list[Annotation | None]:
        """The annotation of each question, or None while it waits; unknown ones are queued, before everything that was only sighted.

        ``template``: name of another template than ``feedback.template``, e.g. for a score beside a pairwise reward model. Returns
        as soon as all are final, and after ``wait_s`` seconds in any case. Ask again to go on waiting; nothing is asked twice.
        """

    def note_uncertainty(self, uncertainty: Mapping[int, float]) -> None:
        """How unsure the reward model is about texts by key; steers ``feedback.priority=uncertainty`` and the choice of pairs."""

    def waiting(self, limit: int) -> dict[int, str]:
        """Texts of at most ``limit`` sighted keys that have no label yet, the most urgent first: rate those."""

    def snapshot(self, newer_than: int = -1) -> LabelSnapshot | None:
        """Labels of all single texts under ``feedback.template``; None when there is nothing newer than version ``newer_than``."""

    def labels_since(self, cursor: int = 0, limit: int = 1000) -> tuple[int, list[Annotation]]:
        """Labelled questions under ``feedback.template`` in the order in which they became final, after ``cursor``; and the cursor to
        go on from. Failed ones are left out."""

    def stats(self) -> Mapping[str, float]:
        """Counters since the store began and gauges, under metric names ``feedback/...``. ``feedback/degraded_bool`` is 1 while no
        question can be answered (no server, breaker open, budget spent)."""

    def flush(self) -> int:
        """Everything told so far is on disk when this returns; the version of the newest snapshot."""


class RewardModel(Protocol):
    """The role of a reward that is learned from annotations while the run goes on: a loop of its own (``run``, ``stop``) that leases
    groups, asks, learns and scores. What it says carries its version in ``RewardRecord.producer_version``."""

    def run(self) -> None: ...

    def stop(self) -> None: ...

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """Records for a caller instead of the buffer, under the present version."""

    def stats(self) -> Mapping[str, Any]: ...

    def save(self, folder: Path) -> None:
        """Weights, optimiser, labels, statistics and the place in the label store: `load` goes on exactly there."""

    def load(self, folder: Path) -> None: ...


class MessageRater(Protocol):
    """The role of the model behind an agent's intrinsic reward: learns from the annotator's labels, gives its weights away by versions.
    Supervised, saved and loaded like a `RewardModel`, without a part in the buffer."""

    def run(self) -> None: ...

    def stop(self) -> None: ...

    def model(self, newer_than: int = -1) -> RatingModel | None:
        """The weights; None when there are none newer than version ``newer_than``. Never waits for a judge."""

    def stats(self) -> Mapping[str, Any]: ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...
