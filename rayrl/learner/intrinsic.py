"""Where r̂ comes from while an agent learns: one rating per distinct message, against the newest labels that are at hand.

Ratings are computed when a batch is assembled, so everything in flight is rewarded by the newest version. The learner never waits for
a newer one: at each batch border it takes what has arrived and asks for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rayrl.algorithms import intrinsic
from rayrl.algorithms.intrinsic import Hashes
from rayrl.annotations import LabelSnapshot
from rayrl.config.schema import IntrinsicConfig
from rayrl.learner.group import Group
from rayrl.types import FloatArray

NO_MESSAGE = 0


class Later(Protocol):
    """An answer on its way."""

    def wait(self, timeout_s: float) -> bool: ...

    def result(self, timeout_s: float) -> Any: ...


class Intrinsic(Protocol):
    """Rates messages. Owned by the learner's thread."""

    def refresh(self, texts: Mapping[int, bytes]) -> None:
        """At a batch border: ``texts`` are those that came with the batch."""

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        """float32[M] for distinct hashes uint64[M], each seen in so many frames of the batch."""

    def metrics(self) -> dict[str, float]:
        """Of the ratings since the last call."""

    state: dict[str, Any]
    """JSON-able: what a continuation needs."""


class Nothing:
    """``agent.intrinsic.kind=none``."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def refresh(self, texts: Mapping[int, bytes]) -> None:
        pass

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        return np.zeros(len(distinct), np.float32)

    def metrics(self) -> dict[str, float]:
        return {}


class Count(Nothing):
    """Every message is worth the same: N^-β alone is the reward."""

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        return (distinct != NO_MESSAGE).astype(np.float32)


class Cosine(Nothing):
    """Similarity of the text to a goal. Each text is turned into a vector once, and forgotten; its rating is kept."""

    def __init__(self, goal: str, threshold: float) -> None:
        self._goal, self._threshold = intrinsic.text_vectors([goal])[0], threshold
        self._ratings: dict[int, float] = {}

    def refresh(self, texts: Mapping[int, bytes]) -> None:
        new = {key: text for key, text in texts.items() if key not in self._ratings}
        if new:
            vectors = intrinsic.text_vectors([text.decode("latin-1") for text in new.values()])
            self._ratings |= zip(new, intrinsic.cosine(vectors, self._goal, self._threshold).tolist(), strict=True)

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        return np.array([self._ratings.get(key, 0.0) for key in distinct.tolist()], np.float32)

    @property
    def state(self) -> dict[str, Any]:
        return {"ratings": {str(key): rating for key, rating in self._ratings.items()}}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._ratings = {int(key): rating for key, rating in state.get("ratings", {}).items()}


T = TypeVar("T")


class Newest(Generic[T]):
    """Takes the newest version of something that another role makes, and never waits for it: one request is under way at a time."""

    def __init__(self, ask: Callable[[int], Later], wait_s: float = 0.0) -> None:
        """``ask(newer_than)`` requests a value with a ``version``, or None; ``wait_s`` 0 never waits for it, else at most so long."""
        self._ask, self._wait_s = ask, wait_s
        self._asked: Later | None = None
        self.lost = 0
        """Requests that failed because the other role died; its replacement is asked at the next border."""

    def take(self, version: int) -> T | None:
        """What arrived and is newer than ``version``."""
        if self._asked is None:
            self._asked = self._ask(version)
        if not self._asked.wait(self._wait_s):
            return None
        pending, self._asked = self._asked, None
        try:
            return pending.result(0.0)
        except Exception:  # what is at hand goes on being used
            self.lost += 1
            return None


class Retrieval(Nothing):
    """The annotator's label of exactly this message; 0 while there is none."""

    def __init__(self, ask: Callable[[int], Later], wait_s: float = 0.0) -> None:
        """See `Newest`; the answers are `LabelSnapshot`."""
        super().__init__()
        self._newest: Newest[LabelSnapshot] = Newest(ask, wait_s)
        self._labels = self._before = LabelSnapshot(-1, np.empty(0, np.uint64), np.empty(0, np.float32))
        self._seen = self._labelled = self._changed = 0.0

    def refresh(self, texts: Mapping[int, bytes]) -> None:
        newer = self._newest.take(self._labels.version)
        if newer is not None:
            self._before, self._labels = self._labels, newer

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        labels = self._labels.lookup(distinct)
        self._count(distinct, frames, labels)
        return intrinsic.retrieval(labels)

    def metrics(self) -> dict[str, float]:
        seen = max(1.0, self._seen)
        found = {
            "intrinsic/version": float(self._labels.version),
            "intrinsic/labels_count": float(len(self._labels.keys)),
            "intrinsic/labelled_share": self._labelled / seen,
            "intrinsic/changed_share": self._changed / seen,
            "intrinsic/lost_count": float(self._newest.lost),
        }
        self._seen = self._labelled = self._changed = 0.0
        return found

    def _count(self, distinct: Hashes, frames: NDArray[np.int64], labels: FloatArray) -> None:
        before = self._before.lookup(distinct)
        self._seen += float(frames.sum())
        self._labelled += float(frames[np.isfinite(labels)].sum())
        self._changed += float(frames[np.nan_to_num(before) != np.nan_to_num(labels)].sum())
        self._before = self._labels


class FromFirst:
    """Several ranks: the first one rates and tells the others, so that all of them train on the same rewards."""

    def __init__(self, source: Intrinsic, group: Group) -> None:
        self._source, self._group = source, group

    def refresh(self, texts: Mapping[int, bytes]) -> None:
        if self._group.rank == 0:
            self._source.refresh(texts)

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        own = self._source.rate(distinct, frames) if self._group.rank == 0 else np.zeros(len(distinct), np.float32)
        return self._group.sum(torch.from_numpy(own)).numpy()

    def metrics(self) -> dict[str, float]:
        return self._source.metrics()

    @property
    def state(self) -> dict[str, Any]:
        return self._source.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._source.state = state


def build_intrinsic(config: IntrinsicConfig, ask: Callable[[int], Later] | None, wait_s: float = 0.0, heads: int = 1) -> Intrinsic:
    """``ask``: requests newer labels (retrieval) or a newer model with so many ``heads`` (classification, ranking); see `Newest`."""
    match config.kind:
        case "none":
            return Nothing()
        case "count":
            return Count()
        case "cosine":
            return Cosine(config.goal, config.threshold or 0.0)
        case "retrieval":
            assert ask is not None
            return Retrieval(ask, wait_s)
        case "classification" | "ranking":
            from rayrl.learner.rated import Classified, Ranked

            assert ask is not None
            threshold = {} if config.threshold is None else {"threshold": config.threshold}
            return (Classified if config.kind == "classification" else Ranked)(ask, wait_s, heads, **threshold)
    raise ValueError(f"agent.intrinsic.kind {config.kind!r}")
