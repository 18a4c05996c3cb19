"""Intrinsic rewards of a model that learns while the agent plays: each distinct message is rated once per version of the model.

The weights come from their own role (`reward_models.rater`) and are swapped at batch borders; the texts came with the fragments. So a
message is rated by the newest model the first time it is seen, labelled or not (ONI, arXiv 2410.23022, section 3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayrl.agent_types import RatingModel
from rayrl.algorithms import intrinsic
from rayrl.algorithms.intrinsic import Hashes
from rayrl.algorithms.running_stats import RunningStats
from rayrl.learner.intrinsic import NO_MESSAGE, Later, Newest, Nothing
from rayrl.models.char_cnn import CharCnn
from rayrl.types import FloatArray

MAX_TEXTS = 200_000
"""Texts kept; beyond it the one not met for longest is forgotten, and counted where it is met again."""
_AT_ONCE = 256


class Rated(Nothing, ABC):
    """What both kinds share. A subclass says what the network's outputs mean."""

    ranking: bool
    width: int
    """Outputs per head."""

    def __init__(self, ask: Callable[[int], Later], wait_s: float, heads: int) -> None:
        """``ask``: see `Newest`; the answers are `RatingModel`."""
        self._newest: Newest[RatingModel] = Newest(ask, wait_s)
        with torch.random.fork_rng(devices=[]):  # the numbers drawn here are overwritten, and must move no other
            self._network = CharCnn(heads * self.width, ranking=self.ranking).eval().requires_grad_(False)
        self._heads, self._version = heads, 0
        self._texts: OrderedDict[int, bytes] = OrderedDict()
        self._scores: dict[int, float] = {}
        """Under the present version."""
        self._worth: dict[int, bool] = {}
        """Whether a message was rewarded when it was met last."""
        self._seen = self._rated = self._positive = self._changed = 0.0

    def refresh(self, texts: Mapping[int, bytes]) -> None:
        self._texts.update(texts)
        while len(self._texts) > MAX_TEXTS:
            key, _ = self._texts.popitem(last=False)
            self._worth.pop(key, None)
            self._scores.pop(key, None)
        newer = self._newest.take(self._version)
        if newer is not None:
            self._network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in newer.weights.items()})
            self._version, self._scores = newer.version, {}

    def rate(self, distinct: Hashes, frames: NDArray[np.int64]) -> FloatArray:
        scores = self._score(distinct)
        ratings = self._ratings(scores, frames)
        self._count(distinct, frames, scores, ratings)
        return ratings

    def metrics(self) -> dict[str, float]:
        seen = max(1.0, self._seen)
        found = {
            "intrinsic/version": float(self._version),
            "intrinsic/labelled_share": self._rated / seen,
            "intrinsic/positive_share": self._positive / seen,
            "intrinsic/changed_share": self._changed / seen,
            "intrinsic/lost_count": float(self._newest.lost),
        }
        self._seen = self._rated = self._positive = self._changed = 0.0
        return found

    @property
    def state(self) -> dict[str, Any]:
        """Texts arrive once, so they are part of it. The model comes back from its own role."""
        return {"texts": {str(key): text.decode("latin-1") for key, text in self._texts.items()}}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._texts = OrderedDict((int(key), text.encode("latin-1")) for key, text in state.get("texts", {}).items())
        self._scores, self._worth = {}, {}

    @abstractmethod
    def _read(self, outputs: torch.Tensor) -> torch.Tensor:
        """Scores float32[M] of outputs float32[M, heads, width]."""

    @abstractmethod
    def _ratings(self, scores: FloatArray, frames: NDArray[np.int64]) -> FloatArray:
        """r̂ float32[M] of scores float32[M], NaN where there is none."""

    def _score(self, distinct: Hashes) -> FloatArray:
        """float32[M]: what the model says; NaN without a model, a message, or its text."""
        keys = distinct.tolist()
        for key in keys:
            if key in self._texts:
                self._texts.move_to_end(key)
        if self._version:
            new = [key for key in keys if key != NO_MESSAGE and key not in self._scores and key in self._texts]
            for start in range(0, len(new), _AT_ONCE):
                part = new[start : start + _AT_ONCE]
                with torch.inference_mode():
                    outputs = self._network(**self._network.encode([self._texts[key] for key in part]))
                    self._scores.update(zip(part, self._read(outputs.unflatten(1, (self._heads, self.width))).tolist(), strict=True))
        return np.array([self._scores.get(key, np.nan) for key in keys], np.float32)

    def _count(self, distinct: Hashes, frames: NDArray[np.int64], scores: FloatArray, ratings: FloatArray) -> None:
        worth = ratings > 0
        before = np.array([self._worth.get(key, now) for key, now in zip(distinct.tolist(), worth.tolist(), strict=True)], bool)
        self._seen += float(frames.sum())
        self._rated += float(frames[np.isfinite(scores)].sum())
        self._positive += float(frames[worth].sum())
        self._changed += float(frames[worth != before].sum())
        self._worth.update(zip(distinct.tolist(), worth.tolist(), strict=True))


class Classified(Rated):
    """1 where the mean probability of the positive class over heads is above ``threshold``, else 0."""

    ranking, width = False, 2

    def __init__(self, ask: Callable[[int], Later], wait_s: float = 0.0, heads: int = 1, threshold: float = 0.5) -> None:
        super().__init__(ask, wait_s, heads)
        self._threshold = threshold

    def _read(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(-1)[..., -1].mean(1)

    def _ratings(self, scores: FloatArray, frames: NDArray[np.int64]) -> FloatArray:
        return intrinsic.classification(scores, self._threshold)


class Ranked(Rated):
    """The score standardised by running statistics over all frames rated so far, these included; 0 at or below ``threshold``."""

    ranking, width = True, 1

    def __init__(self, ask: Callable[[int], Later], wait_s: float = 0.0, heads: int = 1, threshold: float = -0.5) -> None:
        super().__init__(ask, wait_s, heads)
        self._threshold, self._stats = threshold, RunningStats()

    @property
    def state(self) -> dict[str, Any]:
        return super().state | {"stats": self._stats.state()}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        Rated.state.fset(self, state)
        if "stats" in state:
            self._stats.restore(state["stats"])

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"intrinsic/score_mean": self._stats.mean, "intrinsic/score_std": self._stats.variance**0.5}

    def _read(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[..., 0].mean(1)

    def _ratings(self, scores: FloatArray, frames: NDArray[np.int64]) -> FloatArray:
        known = np.isfinite(scores)
        self._stats.update(np.repeat(scores[known], frames[known]))
        return intrinsic.ranking(scores, self._stats, self._threshold)
