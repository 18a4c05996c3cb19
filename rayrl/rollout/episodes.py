"""One episode as a pure state machine: prompt, then policy turns and environment observations, all in one id sequence.

Ids are only ever appended: what the policy saw when it chose a token is exactly the prefix of the sequence that is trained on.
``action_mask`` is True at the tokens an engine sampled and nowhere else. No engine, no environment and no clock in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rayrl.types import FinishReason, GenerationRequest, GenerationResult, IntArray, PromptTask, SamplingParams, Trajectory, VersionSpan


class Episode:
    """Sample ``sample`` of a prompt task. Drive it with `request` → `add_turn` → (`add_observation` → `request` …) until `finished`."""

    def __init__(self, task: PromptTask, sample: int, *, max_turns: int = 1, max_length: int, group: str = "") -> None:
        """``group`` tells its requests apart from those of other groups in the engine; by default the ordinal does."""
        self.task = task
        self.group = group or str(task.prompt.ordinal)
        self.sample = sample
        self._max_turns = max_turns
        self._max_length = max_length
        self._parts: list[IntArray] = [np.asarray(task.prompt.token_ids, dtype=np.int32)]
        self._logprobs: list[tuple[int, np.ndarray]] = []
        self._length = int(self._parts[0].shape[0])
        self._turns: list[tuple[int, int]] = []
        self._spans: list[VersionSpan] = []
        self._reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        return self._reason is not None

    @property
    def id(self) -> str:
        """``<ordinal>/<sample>``, as of its trajectory."""
        return f"{self.group}/{self.sample}"

    @property
    def request_id(self) -> str:
        """``<ordinal>/<sample>/<turn>`` of the turn that is being, or will next be, generated."""
        return f"{self.id}/{len(self._turns)}"

    def request(self) -> GenerationRequest:
        """The next turn's generation: everything so far is its prompt, the token limit is cut to the room left in the context.

        Raises `ValueError` when no token fits.
        """
        room = self._max_length - self._length
        if room < 1:
            raise ValueError(f"episode {self.id}: {self._length} tokens leave no room in a context of {self._max_length}")
        return GenerationRequest(self.request_id, self._ids(), self._sampling(room))

    def add_turn(self, result: GenerationResult) -> bool:
        """Appends what the policy wrote. True when the environment must answer before the episode can go on."""
        start = self._length
        self._append(result.token_ids)
        self._logprobs.append((start, result.logprobs))
        self._turns.append((start, self._length))
        self._spans += [VersionSpan(s.version, s.start + start, s.end + start) for s in result.version_spans]
        if result.finish_reason is FinishReason.ABORT or len(self._turns) >= self._max_turns:
            self._reason = result.finish_reason
        elif self._length >= self._max_length:
            self._reason = FinishReason.LENGTH
        return not self.finished

    def add_observation(self, token_ids: Sequence[int] | IntArray | None, done: bool) -> None:
        """Appends the environment's answer (never trained on) or ends the episode.

        An observation after which the policy cannot act is left out: the episode is over, or nothing more fits the context.
        """
        observed = np.asarray(() if token_ids is None else token_ids, dtype=np.int32)
        if done:
            self._reason = FinishReason.ENV
        elif self._length + observed.shape[0] >= self._max_length:
            self._reason = FinishReason.LENGTH
        else:
            self._append(observed)

    def trajectory(self, decode: Callable[[IntArray], str]) -> Trajectory:
        """The finished episode; ``decode`` makes the text views."""
        prompt, ids = self.task.prompt, self._ids()
        mask = np.zeros(self._length, dtype=np.bool_)
        logprobs = np.zeros(self._length, dtype=np.float32)
        for (start, end), (_, values) in zip(self._turns, self._logprobs, strict=True):
            mask[start:end] = True
            logprobs[start:end] = values
        return Trajectory(
            id=f"{prompt.ordinal}/{self.sample}",
            ordinal=prompt.ordinal,
            sample=self.sample,
            token_ids=ids,
            action_mask=mask,
            behavior_logprobs=logprobs,
            version_spans=tuple(self._spans),
            turns=tuple(self._turns),
            finish_reason=self._reason or FinishReason.ABORT,
            task=prompt.task,
            text="\n".join(decode(ids[start:end]) for start, end in self._turns),
            prompt_text=prompt.text,
            ground_truth=prompt.ground_truth,
            metadata=prompt.metadata,
        )

    def _append(self, token_ids: IntArray) -> None:
        self._parts.append(np.asarray(token_ids, dtype=np.int32))
        self._length += int(token_ids.shape[0])

    def _ids(self) -> IntArray:
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)

    def _sampling(self, room: int) -> SamplingParams:
        base, own = self.task.sampling, self.task.max_tokens
        limit = min(room, base.max_tokens if own is None else own[self.sample])
        seed = base.seed
        if seed is not None:  # one seed per prompt; its samples and turns must still differ
            seed = int(np.random.SeedSequence([seed, self.sample, len(self._turns)]).generate_state(1)[0])
        return base if limit == base.max_tokens and seed is None else replace(base, max_tokens=limit, seed=seed)
