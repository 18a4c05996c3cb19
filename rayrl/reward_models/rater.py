"""The role behind a learned intrinsic reward: fits a character network to the labels of messages and gives its weights away.

    collect the labels of a second → some gradient steps → new version → …

Nobody waits for it and it waits for nobody. Whoever rates (the learner, at its batch borders) asks for weights newer than its own;
so a message is rated the moment it is first seen, and no text travels twice. In lockstep (deterministic runs) it does nothing by
itself: each `model` call learns everything there is before it answers.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from rayrl.agent_types import RatingModel
from rayrl.annotations import Annotation, QuestionKind
from rayrl.config.schema import RewardModelConfig
from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.protocols import Annotator
from rayrl.reward_models.examples import Example, Label, Pair
from rayrl.reward_models.fitter import Fitter
from rayrl.telemetry.process import resident_bytes

_IDLE_S, _PUBLISH_S, _SAVE_EVERY_S = 0.1, 1.0, 20.0
_ARRIVAL_S = 1.0
"""What comes within so long is one arrival: labels that trickle in one by one must not ask for a whole fit each."""
_SLICE = 4
"""Gradient steps between two looks at what was labelled."""
_LABELS_AT_ONCE, _DOUBTFUL = 1000, 256
_STATE = "rater.json"


class MessageRater:
    """Fulfils `protocols.MessageRater`. ``annotator`` None only gives away what the fitter already knows."""

    def __init__(
        self,
        fitter: Fitter,
        settings: RewardModelConfig,
        annotator: Annotator | None,
        *,
        folder: Path | None = None,
        lockstep: bool = False,
    ) -> None:
        """``folder``: where it keeps its state, so that one that is killed starts again from there."""
        self._fitter, self._settings, self._annotator = fitter, settings, annotator
        self._folder, self._lockstep = folder, lockstep
        self._lock = threading.Lock()
        """Guards the fitter and the cursor."""
        self._cursor = 0
        self._stopping = threading.Event()
        self._published = RatingModel(0, {})
        self._published_at = self._saved_at = self._collected_at = -float("inf")
        self._saved_version = 0
        self._busy_s = self._waited_s = 0.0
        if folder is not None and (folder / _STATE).is_file():
            self.load(folder)
        self._publish(force=True)

    def run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            worked = False
            if not self._lockstep:
                worked = self._collect_if_due() | self._learn(_SLICE)
                self._publish()
                self._save_if_due()
            worked_s = time.monotonic() - started
            if worked:
                self._busy_s += worked_s
            else:
                self._stopping.wait(_IDLE_S)
                self._waited_s += time.monotonic() - started

    def stop(self) -> None:
        self._stopping.set()

    def model(self, newer_than: int = -1) -> RatingModel | None:
        if self._lockstep:
            while self._collect():
                pass
            self._learn(None)
            self._publish(force=True)
        found = self._published
        return found if found.version > max(0, newer_than) else None

    def stats(self) -> dict[str, Any]:
        """As `RewardWorker.stats`, and ``model``: the fitter's metrics."""
        model = self._fitter.metrics() | {"arrived": float(self._fitter.arrived), "owed": float(self._fitter.owed)}
        nothing = {"groups": 0, "scored": 0, "failed": 0, "failed_by_reason": {}}
        return {"busy_s": self._busy_s, "waited_s": self._waited_s, "rss_bytes": resident_bytes(), "model": model} | nothing

    def save(self, folder: Path) -> None:
        """Weights, optimiser, labels and the place in the label store; whole or not at all."""
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with self._lock:
            self._fitter.save(part)
            cursor = self._cursor
        (part / _STATE).write_text(json.dumps({"cursor": cursor}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)

    def load(self, folder: Path) -> None:
        """Raises `CheckpointError` for the state of another model."""
        with self._lock:
            self._fitter.load(folder)
            self._cursor = json.loads((folder / _STATE).read_text(encoding="utf-8"))["cursor"]
        self._published = RatingModel(0, {})
        self._publish(force=True)

    # ---- inside -------------------------------------------------------------------------------------------------------------

    def _collect_if_due(self) -> bool:
        now = time.monotonic()
        if now - self._collected_at < _ARRIVAL_S:
            return False
        self._collected_at = now
        return bool(self._collect())

    def _collect(self) -> int:
        """Takes in what was labelled since the last look; how many labels that were. An annotator that is away is asked again later."""
        if self._annotator is None:
            return 0
        try:
            cursor, annotations = self._annotator.labels_since(self._cursor, _LABELS_AT_ONCE)
        except (RoleFailed, DeadlineExceeded):
            return 0
        with self._lock:
            found = [e for e in map(to_example, annotations) if isinstance(e, self._fitter.objective.example)]
            self._fitter.add(found)
            self._cursor = cursor
        return len(annotations)

    def _learn(self, most: int | None) -> bool:
        with self._lock:
            learned = self._fitter.fit(most)
            complete = learned and not self._fitter.owed
        if complete and self._settings.heads > 1 and self._settings.choose == "uncertainty":
            self._doubt()
        return learned

    def _doubt(self) -> None:
        """Tells the annotator how unsure the model is about messages that wait for a label."""
        assert self._annotator is not None
        try:
            waiting = self._annotator.waiting(_DOUBTFUL)
            if waiting:
                with self._lock:
                    spread = self._fitter.score(list(waiting.values())).spread
                self._annotator.note_uncertainty(dict(zip(waiting, spread.tolist(), strict=True)))
        except (RoleFailed, DeadlineExceeded):
            return

    def _publish(self, force: bool = False) -> None:
        """Once a fit is complete, and now and then while labels never stop coming. A trained checkpoint is a version of its own."""
        now, version = time.monotonic(), self._fitter.version + (self._settings.path is not None)
        if version <= self._published.version or not (force or not self._fitter.owed or now - self._published_at >= _PUBLISH_S):
            return
        with self._lock:
            weights = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self._fitter.network.state_dict().items()}
        self._published, self._published_at = RatingModel(version, weights), now

    def _save_if_due(self) -> None:
        """Now and then; the first version at once."""
        news = self._fitter.version > self._saved_version
        if self._folder is not None and news and time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            with self._lock:
                self._fitter.measure()
            self.save(self._folder)
            self._saved_at, self._saved_version = time.monotonic(), self._fitter.version


def to_example(annotation: Annotation) -> Example | None:
    """The label of one message, or of two that were compared. The empty message teaches nothing."""
    texts = annotation.question.texts
    if annotation.kind is QuestionKind.PAIR:
        return Pair(*texts, annotation.label) if texts[0] != texts[1] else None
    return Label(texts[0], annotation.label) if annotation.kind is QuestionKind.CLASS else None
