"""The log of an earlier run as the annotator: the same question has the same answer, without a judge and without delay."""

from __future__ import annotations

from pathlib import Path

from rayrl.annotations import Question
from rayrl.feedback.database import Database
from rayrl.feedback.outcome import Outcome


class Replay:
    """Answers of the label file ``path``. Raises `StorageError` when there is none."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, read_only=True)

    def outcome(self, key: str) -> Outcome:
        """What became of the question then, failures included; ``unrecorded`` when it was not asked then."""
        found = self._database.annotation(key)
        if found is None:
            return Outcome((), "unrecorded: the replayed run did not ask this question", retry=False)
        return Outcome(found.values, found.error, found.raw_answers, found.latency_s)

    def questions(self, template: str, goal: str, model: str) -> list[Question]:
        """Everything that was asked then with this template (its hash), goal and model, in the order of the answers."""
        found = self._database.all_annotations()
        return [a.question for a in found if (a.template, a.goal, a.model) == (template, goal, model)]
