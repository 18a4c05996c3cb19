"""What happened in the label store and is not on disk yet. Taken as a whole by a commit, and put back when the commit fails."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayrl.annotations import Annotation
from rayrl.feedback.ledger import Entry
from rayrl.feedback.templates import Template


@dataclass
class Pending:
    finals: list[Annotation] = field(default_factory=list)
    attempts: list[tuple[str, str, str, float, float]] = field(default_factory=list)
    """Attempts without a usable answer: key, error, raw answers (JSON), latency in seconds, time."""
    dirty: dict[str, Entry] = field(default_factory=dict)
    """Open questions that are new, or whose attempts changed, by key."""
    gone: list[str] = field(default_factory=list)
    """Keys of questions that are open no more."""
    templates: list[Template] = field(default_factory=list)
    touched_questions: dict[str, None] = field(default_factory=dict)
    """Keys whose sightings changed: less urgent than everything above."""
    touched_texts: dict[int, None] = field(default_factory=dict)

    def take(self, touched: bool) -> Pending:
        """Everything, or without ``touched`` all but the sightings; this object is empty of it afterwards."""
        taken = Pending(self.finals, self.attempts, self.dirty, self.gone, self.templates)
        self.finals, self.attempts, self.dirty, self.gone, self.templates = [], [], {}, [], []
        if touched:
            taken.touched_questions, self.touched_questions = self.touched_questions, {}
            taken.touched_texts, self.touched_texts = self.touched_texts, {}
        return taken

    def put_back(self, taken: Pending) -> None:
        """Before what came since."""
        self.finals, self.attempts = taken.finals + self.finals, taken.attempts + self.attempts
        self.gone, self.templates = taken.gone + self.gone, taken.templates + self.templates
        self.dirty = {key: entry for key, entry in taken.dirty.items() if key not in self.gone} | self.dirty
        self.touched_questions = taken.touched_questions | self.touched_questions
        self.touched_texts = taken.touched_texts | self.touched_texts
