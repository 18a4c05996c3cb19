"""The label store: the ledger with its log on disk and its snapshots for readers. The only queue between what is seen and a judge.

A label is shown to nobody before it is on disk (`flush`), so a killed process loses no label that anybody used. What was in
flight then is asked again; what was labelled or failed is not. Thread-safe; every call is short and none waits for a judge.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rayrl.annotations import Annotation, LabelSnapshot, Question, QuestionKind, QuestionState
from rayrl.config.schema import FeedbackConfig
from rayrl.feedback.database import Database
from rayrl.feedback.keys import as_text, clean, in_order, item_key, question_key
from rayrl.feedback.ledger import Counts, Entry, Ledger
from rayrl.feedback.outcome import Outcome
from rayrl.feedback.pending import Pending
from rayrl.feedback.sighted import Sighted, SightedTexts
from rayrl.feedback.snapshots import Labels
from rayrl.feedback.templates import Template

_SINGLE = (QuestionKind.SCORE, QuestionKind.CLASS)
_TOUCHED_EVERY = 20
"""Flushes between two that also write counts of sightings: those may be lost, labels may not."""


class LabelStore:
    """``model`` names the judge: it is part of every question. Raises `StorageError` when the file cannot be used."""

    def __init__(self, path: Path, settings: FeedbackConfig, template: Template, model: str, *, seed: int = 0) -> None:
        self.template, self.goal, self.model = template, template.goal_sentence(settings.goal), model
        self._settings, self._templates = settings, {template.hash: template}
        self._single = template.kind in _SINGLE
        self._lock, self._flushing = threading.RLock(), threading.Lock()
        self._database = Database(path)
        meta = self._database.meta()
        counts = Counts(**{name: int(meta.get(name, 0)) for name in vars(Counts())})
        self.ledger = Ledger(settings.max_queued, settings.max_known, settings.priority, settings.retry.max_attempts, counts)
        self._texts = SightedTexts(settings.max_known, settings.pairs.select, seed)
        self._labels = Labels()
        self._by_item: dict[int, str] = {}
        self._done_items: set[int] = set()
        """Items that have their label, failed, or cannot be asked about."""
        self._settled: dict[str, int] = {}
        """Id of every question that is final."""
        self._flushes = self._last_id = self._visible = 0
        """Newest id, and newest id that is on disk."""
        self.labelled, self.failed = 0, Counter[str]()
        """Failed ones by the kind of error."""
        self._pending = Pending(templates=[template])
        self.lost_tokens, self.lost_usd = meta.get("lost_tokens", 0.0), meta.get("lost_usd", 0.0)
        """Charged for questions that were in flight when a process died."""
        self._restore()

    def save(self, path: Path) -> None:
        """A copy of the whole store on disk. Raises `StorageError`."""
        self.flush(everything=True)
        self._database.copy_to(path)

    def close(self) -> None:
        self.flush(everything=True)
        self._database.close()

    # ---- what is seen -------------------------------------------------------------------------------------------------------------

    def sight(self, texts: Mapping[int, bytes | str], sightings: Mapping[int, int], first: Mapping[int, int] | None = None) -> list[int]:
        """See `protocols.Annotator.sight`."""
        first = first or {}
        with self._lock:
            for key, text in texts.items():
                if key and item_key(text) != key:
                    raise ValueError(f"key {key} is not the xxh3-64 of its text {text[:60]!r}")
            wanted = []
            for key in texts.keys() | sightings.keys():
                count, firsts = int(sightings.get(key, 0)), int(first.get(key, 0))
                if not key or key in self._done_items:
                    continue
                if not (self._sight_single if self._single else self._sight_many)(key, texts.get(key), count, firsts):
                    wanted.append(key)
            self._drop_forgotten()
        return wanted

    def note_uncertainty(self, uncertainty: Mapping[int, float]) -> None:
        """See `protocols.Annotator.note_uncertainty`."""
        with self._lock:
            for key, value in uncertainty.items():
                if key in self._texts:
                    self._texts.get(key).uncertainty = float(value)
                entry = self.ledger.get(self._by_item.get(key, ""))
                if entry is not None:
                    entry.uncertainty = float(value)
                    self.ledger.rerank(entry)

    def waiting(self, limit: int) -> dict[int, str]:
        """See `protocols.Annotator.waiting`."""
        with self._lock:
            if not self._single:
                return self._texts.recent(limit)
            return {e.items[0]: e.question.texts[0] for e in self.ledger.top(limit) if len(e.items) == 1 and not e.question.context}

    # ---- what is asked --------------------------------------------------------------------------------------------------------------

    def offer(self, questions: Sequence[Question]) -> list[str]:
        """Files questions that nobody waits for; returns the keys of those that are new. Impossible ones are refused and counted."""
        with self._lock:
            filed = [self._file(in_order(q) if self.template.kind is QuestionKind.PAIR else q, self.template, False) for q in questions]
            self._drop_forgotten()
            return [key for key, new in filed if new]

    def ask(self, questions: Sequence[Question], template: Template | None = None) -> list[str]:
        """Files questions that somebody waits for; returns all keys, empty for an impossible question."""
        template = template or self.template
        with self._lock:
            if template.hash not in self._templates:
                self._templates[template.hash] = template
                self._pending.templates.append(template)
            keys = [self._file(question, template, True)[0] for question in questions]
            self._drop_forgotten()
            return keys

    def fill_pairs(self, count: int) -> int:
        """Where questions are pairs: makes up to ``count`` new ones of the texts sighted so far; returns how many."""
        if self.template.kind is not QuestionKind.PAIR or count <= 0:
            return 0
        made = 0
        with self._lock:
            for _ in range(count):
                pair = self._texts.choose(
                    lambda a, b: (key := self._key(self._pair(a, b), self.template)) in self._settled or key in self.ledger
                )
                if pair is None:
                    break
                made += self._file(self._pair(*pair), self.template, False)[1]
            self._drop_forgotten()
        return made

    def annotation(self, key: str) -> Annotation | None:
        """The annotation of a question, once it is final and on disk."""
        with self._lock:
            visible = self._settled.get(key, self._visible + 1) <= self._visible
        return self._database.annotation(key) if visible else None

    # ---- what goes to the judge and comes back -----------------------------------------------------------------------------------

    def lease(self, now: float, reserve: Callable[[Entry], tuple[int, float] | None]) -> Entry | None:
        """The most urgent question. ``reserve`` sets tokens and money aside for it, or says None: it stays where it was then."""
        with self._lock:
            entry = self.ledger.lease(now)
            if entry is None:
                return None
            reserved = reserve(entry)
            if reserved is None:
                self.ledger.give_back(entry)
                return None
            self.ledger.counts.asked += not entry.asked
            entry.asked = True
            entry.reserved_tokens, entry.reserved_usd = reserved
            self._pending.dirty[entry.key] = entry
            return entry

    def template_of(self, entry: Entry) -> Template:
        return self._templates[entry.template]

    def give_back(self, entry: Entry, outcome: Outcome, not_before: float) -> None:
        """No usable answer this time; after the last attempt the question is failed for good."""
        with self._lock:
            self._book(entry, outcome)
            if not self.ledger.give_back(entry, not_before, used=outcome.counts):
                self._settle(entry, outcome)
            elif outcome.counts:
                raw = json.dumps(outcome.raw_answers)
                self._pending.attempts.append((entry.key, outcome.error, raw, outcome.latency_s, time.time()))

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """A label, or a failure that no further attempt can mend."""
        with self._lock:
            entry.attempts += 1
            self._book(entry, outcome)
            self._settle(entry, outcome)

    def settle_waiting(self, answer: Callable[[str], Outcome]) -> None:
        """Settles everything that waits with what ``answer`` says of its key: answers of an earlier run need no judge."""
        with self._lock:
            for entry in [e for e in self.ledger.entries() if e.state is not QuestionState.IN_FLIGHT]:
                self.ledger.hold(entry)
                self.ledger.counts.asked += not entry.asked
                self.settle(entry, answer(entry.key))

    # ---- what others read --------------------------------------------------------------------------------------------------------------

    def snapshot(self, newer_than: int = -1) -> LabelSnapshot | None:
        """See `protocols.Annotator.snapshot`."""
        with self._lock:
            return self._labels.snapshot() if self._labels.version > newer_than else None

    def labels_since(self, cursor: int = 0, limit: int = 1000) -> tuple[int, list[Annotation]]:
        """See `protocols.Annotator.labels_since`."""
        found = self._database.annotations_after(cursor, limit, self.template.hash, self.goal, self.model)
        return (found[-1].id if found else cursor), found

    def spent(self) -> tuple[float, float]:
        """Tokens and money since the store began."""
        tokens, usd = self._database.spent()
        return tokens + self.lost_tokens, usd + self.lost_usd

    def sizes(self) -> dict[str, int]:
        """The backlog, the questions and texts that are remembered without a label, and the version of the newest snapshot."""
        with self._lock:
            return {"backlog": self.ledger.backlog, "known": len(self.ledger) + len(self._texts), "version": self._labels.version}

    # ---- disk ---------------------------------------------------------------------------------------------------------------------

    def flush(self, everything: bool = False) -> list[Annotation]:
        """Writes what happened since the last call in one transaction; only then do new labels become visible. Returns what became final.

        Raises `StorageError`; nothing is lost then, the next call tries again.
        """
        with self._flushing:
            with self._lock:
                self._flushes += 1
                touched = everything or self._flushes % _TOUCHED_EVERY == 0
                taken = self._pending.take(touched)
                if taken == Pending():
                    return []
                entries = [e for key in taken.dirty | taken.touched_questions if (e := self.ledger.get(key)) is not None]
                texts = [self._texts.row(key) for key in taken.touched_texts if key in self._texts]
                meta = vars(self.ledger.counts) | {"lost_tokens": self.lost_tokens, "lost_usd": self.lost_usd}
            try:
                self._database.commit(taken, entries, texts, meta)
            except BaseException:
                with self._lock:
                    self._pending.put_back(taken)
                raise
            with self._lock:
                for annotation in taken.finals:
                    self._publish(annotation)
            return taken.finals

    # ---- inside -------------------------------------------------------------------------------------------------------------------

    def _sight_single(self, key: int, text: bytes | str | None, count: int, first: int) -> bool:
        """False when the text of ``key`` is not known."""
        entry = self.ledger.get(self._by_item.get(key, ""))
        if entry is not None:
            self.ledger.touch(entry, count, first)
            self._pending.touched_questions[entry.key] = None
            return True
        if text is None:
            return False
        question = Question((as_text(text),))
        if self._refuse(question, self.template):
            self._done_items.add(key)
            return True
        self._file(question, self.template, False, (count, first))
        return True

    def _sight_many(self, key: int, text: bytes | str | None, count: int, first: int) -> bool:
        if key not in self._texts:
            if text is None:
                return False
            if len(text) > self._settings.max_text:
                self.ledger.counts.refused += 1
                self._done_items.add(key)
                return True
            self.ledger.counts.forgotten += self._texts.add(key, Sighted(as_text(text)))
        self.ledger.tick += 1
        self._texts.touch(key, self.ledger.tick, count, first)
        self._pending.touched_texts[key] = None
        return True

    def _pair(self, a: int, b: int) -> Question:
        first, second = self._texts.get(a), self._texts.get(b)
        return in_order(Question((first.text, second.text), uncertainty=first.uncertainty + second.uncertainty))

    def _file(self, question: Question, template: Template, urgent: bool, seen: tuple[int, int] = (1, 0)) -> tuple[str, bool]:
        """Key of a question, empty for an impossible one, and whether it is new."""
        question = Question(tuple(clean(t) for t in question.texts), clean(question.context), question.uncertainty)
        if self._refuse(question, template):
            return "", False
        key = self._key(question, template)
        if key in self._settled:
            return key, False
        entry = self.ledger.get(key)
        if entry is not None:
            if urgent and not entry.urgent:
                entry.urgent = True
                self.ledger.touch(entry)
            elif entry.state is QuestionState.NEW:
                self.ledger.rerank(entry)
            return key, False
        self.ledger.tick += 1
        items = tuple(item_key(t, question.context) for t in question.texts)
        entry = Entry(key, question, template.hash, items, urgent=urgent)
        entry.sightings, entry.first_sightings, entry.seen, entry.uncertainty = *seen, self.ledger.tick, question.uncertainty
        self._pending.dirty[key] = entry
        if template is self.template and self._single:
            self._by_item[entry.items[0]] = key
        self.ledger.add(entry)
        return key, True

    def _refuse(self, question: Question, template: Template) -> bool:
        refused = bool(template.check(question)) or sum(map(len, question.texts)) + len(question.context) > self._settings.max_text
        self.ledger.counts.refused += refused
        return refused

    def _key(self, question: Question, template: Template) -> str:
        return question_key(template.hash, template.goal_sentence(self._settings.goal), self.model, question.context, question.texts)

    def _book(self, entry: Entry, outcome: Outcome) -> None:
        entry.tokens += outcome.tokens
        entry.cost_usd += outcome.cost_usd
        entry.reserved_tokens, entry.reserved_usd = 0, 0.0
        self._pending.dirty[entry.key] = entry

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        template = self._templates[entry.template]
        self._last_id += 1
        self._pending.finals.append(
            Annotation(
                id=self._last_id,
                key=entry.key,
                kind=template.kind,
                question=entry.question,
                items=entry.items,
                state=QuestionState.LABELLED if outcome.values else QuestionState.FAILED,
                values=outcome.values,
                error=outcome.error,
                template=template.hash,
                goal=template.goal_sentence(self._settings.goal),
                model=self.model,
                raw_answers=outcome.raw_answers,
                attempts=entry.attempts,
                latency_s=outcome.latency_s,
                tokens=entry.tokens,
                cost_usd=entry.cost_usd,
            )
        )
        self._settled[entry.key] = self._last_id
        self._count(outcome.error)
        self.ledger.settle(entry)
        self._pending.dirty.pop(entry.key, None)
        self._pending.gone.append(entry.key)
        if self._single and template is self.template:
            self._by_item.pop(entry.items[0], None)
            self._done_items.add(entry.items[0])

    def _count(self, error: str) -> None:
        self.labelled += not error
        if error:
            self.failed[error.partition(":")[0]] += 1

    def _publish(self, annotation: Annotation) -> None:
        self._visible = annotation.id
        mine = (annotation.template, annotation.goal, annotation.model) == (self.template.hash, self.goal, self.model)
        if self._single and mine and annotation.values:
            self._labels.add(annotation.id, annotation.items[0], annotation.label)

    def _drop_forgotten(self) -> None:
        for entry in self.ledger.forgotten:
            self._lose(entry)
            self._pending.dirty.pop(entry.key, None)
            if len(entry.items) == 1:
                self._by_item.pop(entry.items[0], None)
        self.ledger.forgotten.clear()

    def _lose(self, entry: Entry) -> None:
        """It is deleted; what it cost stays counted."""
        self._pending.gone.append(entry.key)
        self.lost_tokens += entry.tokens + entry.reserved_tokens
        self.lost_usd += entry.cost_usd + entry.reserved_usd

    def _restore(self) -> None:
        """What an earlier process left: labels, failures, open questions (in flight or not), texts."""
        for number, key, template, goal, model, items, state, label, error in self._database.settled():
            self._settled[key], self._last_id, self._visible = number, number, number
            self._count(error)
            if (template, goal, model) == (self.template.hash, self.goal, self.model) and self._single:
                item = json.loads(items)[0]
                self._done_items.add(item)
                if state == QuestionState.LABELLED:
                    self._labels.add(number, item, json.loads(label)[0])
        for item, text, *counts in [] if self._single else self._database.texts():
            self._texts.add(item, Sighted(text, *counts))
        for entry in self._database.open_questions():
            self.ledger.tick = max(self.ledger.tick, entry.seen)
            if entry.template != self.template.hash:
                self._lose(entry)  # whoever waits for it asks again
                continue
            self.lost_tokens += entry.reserved_tokens
            self.lost_usd += entry.reserved_usd
            entry.reserved_tokens, entry.reserved_usd = 0, 0.0
            self._pending.dirty[entry.key] = entry
            if self._single:
                self._by_item[entry.items[0]] = entry.key
            self.ledger.add(entry)
