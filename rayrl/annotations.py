"""The vocabulary of feedback: what a judge is asked, what came of it, and the labels that others read.

A question is its content: template, goal, model, context and texts. Whoever asks the same thing again, also in a later run, means
the same question. Legend of shapes: ``N`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rayrl.types import FloatArray


class QuestionKind(StrEnum):
    """What a judge is asked, and with it the meaning of a label's values."""

    SCORE = "score"
    """One text, a number in [0, 1]: ``values = (score,)``."""
    CLASS = "class"
    """One text, one of two neutral words: ``values = (1.0,)`` for the positive one, ``(0.0,)`` for the other."""
    PAIR = "pair"
    """Two texts: ``values = (p,)``, the preference for the first: 1.0, 0.5 (tie) or 0.0."""
    RANKING = "ranking"
    """n texts: ``values`` has the rank of each text, 0 is the best; a permutation."""
    STEPS = "steps"
    """The steps of one solution, in order: ``values`` has 1.0 (good) or 0.0 (bad) for each."""


class QuestionState(StrEnum):
    """Life of a question in the label store: new -> queued -> in flight -> labelled, or failed after its last attempt."""

    NEW = "new"
    """Known, not queued: there was no room, or it was evicted. A later sighting may queue it again."""
    QUEUED = "queued"
    IN_FLIGHT = "in_flight"
    LABELLED = "labelled"
    """Terminal: never asked again."""
    FAILED = "failed"
    """Terminal: no usable answer in all attempts. It has no label, not even a neutral one."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked, apart from the template that turns it into a prompt."""

    texts: tuple[str, ...]
    """One text (score, class), two (pair), two or more (ranking), or the steps of one solution (steps)."""
    context: str = ""
    """What all texts share: the prompt that they answer. Empty for messages of an environment."""
    uncertainty: float = 0.0
    """How unsure a reward model is about it; used by ``feedback.priority=uncertainty``. No part of its identity."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A question that reached its end, with the provenance of its label."""

    id: int
    """Position in the store's log: ascending in the order in which annotations became final. The cursor of `labels_since`."""
    key: str
    """32 hex digits: hash of template, goal, model, context and texts. The same question has the same key in every run."""
    kind: QuestionKind
    question: Question
    items: tuple[int, ...]
    """uint64 key of each text (`item_key`); for a message without context the xxh3-64 of its bytes."""
    state: QuestionState
    """``labelled`` or ``failed``."""
    values: tuple[float, ...]
    """See `QuestionKind`; empty exactly when failed."""
    error: str = ""
    """Why it failed: ``malformed``, ``refused``, ``contradictory``, ``overlong``, ``timeout``, ``http``, ``budget`` ... and details."""
    template: str = ""
    """Hash of the template that wrote the prompt; the store keeps its text."""
    goal: str = ""
    model: str = ""
    raw_answers: tuple[str, ...] = ()
    """What the judge wrote in the last attempt: two answers where a pair was asked in both orders."""
    attempts: int = 0
    latency_s: float = 0.0
    """Of the last attempt, from sending to the last byte."""
    tokens: int = 0
    """Prompt and completion tokens of all attempts."""
    cost_usd: float = 0.0

    def __post_init__(self) -> None:
        if (self.state is QuestionState.LABELLED) != bool(self.values):
            raise ValueError(f"question {self.key}: it has values exactly when it is labelled")
        if not np.isfinite(self.values).all():
            raise ValueError(f"question {self.key}: values {self.values} are not finite; mark it failed")

    @property
    def label(self) -> float:
        """The value of a score, class or pair. Raises `IndexError` when the question failed."""
        return self.values[0]


@dataclass(frozen=True, slots=True)
class LabelSnapshot:
    """All labels of single texts at one moment, for a look-up by array."""

    version: int
    """Id of the newest annotation in it: grows with the store, also over restarts."""
    keys: NDArray[np.uint64]
    """uint64[N]: item keys, ascending, unique."""
    labels: FloatArray
    """float32[N]."""

    def lookup(self, keys: NDArray[np.uint64]) -> FloatArray:
        """float32, the shape of ``keys``: the label, or NaN where there is none."""
        if not len(self.keys):
            return np.full(keys.shape, np.nan, dtype=np.float32)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.labels[places], np.float32(np.nan)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class JudgeAnswer:
    """What came back for one prompt."""

    text: str
    model: str
    """As the server names it."""
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False
    """The answer ran into the token limit: what it says is not complete."""
