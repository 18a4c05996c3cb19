"""The role of a reward model: scores what the policy just wrote, asks the judge about some of it, learns from the answers.

    lease → ask → learn → score with the present version → put → …

Nothing here waits for a judge, except that a model which has not learned anything yet holds its first groups until it has, and none
longer than ``deadline_s``. Labels are read from the label store by a cursor, so none is missed and none is counted twice. The
state lies in ``folder`` too: a worker that is killed starts again from there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayrl.annotations import Annotation, Question, QuestionKind
from rayrl.config.schema import RewardComponent, RewardModelConfig
from rayrl.data import arrow
from rayrl.errors import DeadlineExceeded, RayrlError, RoleFailed
from rayrl.protocols import Annotator, ReplayBuffer, Store
from rayrl.reward_models.examples import Example, Label, Pair
from rayrl.reward_models.fitter import Fitter
from rayrl.reward_models.questions import choose_pairs, choose_singles
from rayrl.telemetry.process import resident_bytes
from rayrl.types import FloatArray, GroupInfo, RewardRecord, RewardStatus, Trajectory

_IDLE_S, _POLL_S = 0.5, 0.05
_SLICE = 4
"""Gradient steps between two looks at what waits to be scored."""
_LABELS_AT_ONCE = 1000
_SAVE_EVERY_S = 20.0
_STATE = "worker.json"


@dataclass
class _Held:
    info: GroupInfo
    trajectories: list[Trajectory]
    since: float


class RewardModelWorker:
    """``run`` works until ``stop``; `score`, `save`, `load` and `stats` may be called meanwhile from other threads.

    ``components`` are those that this model scores: they differ in weight, tasks and the head that they name.
    ``annotator`` None only scores.
    """

    def __init__(
        self,
        name: str,
        buffer: ReplayBuffer,
        store: Store,
        fitter: Fitter,
        settings: RewardModelConfig,
        components: dict[str, RewardComponent],
        annotator: Annotator | None,
        *,
        deadline_s: float,
        folder: Path | None = None,
        seed: int = 0,
        max_groups: int = 64,
        fetch_s: float = 60.0,
    ) -> None:
        self._name, self._buffer, self._store, self._annotator = name, buffer, store, annotator
        self._fitter, self._settings, self._components = fitter, settings, components
        self._deadline_s, self._folder, self._seed = deadline_s, folder, seed
        self._max_groups, self._fetch_s = max_groups, fetch_s
        self._lock = threading.Lock()
        """Guards the fitter, the cursor and the counters that are saved."""
        self._cursor = self._asked = self._labels = 0
        self._stopping = threading.Event()
        self._saved_at, self._saved_version = time.monotonic(), 0
        self._busy_s = self._waited_s = 0.0
        self._groups = self._scored = 0
        self._failed: Counter[str] = Counter()
        if folder is not None and (folder / _STATE).is_file():
            self.load(folder)

    def run(self) -> None:
        held: list[_Held] = []
        while not self._stopping.is_set():
            free = self._max_groups - len(held)
            asked = time.monotonic()
            patience = 0.0 if held or self._fitter.pending else _IDLE_S
            groups = self._buffer.lease_unscored(self._name, self._name, free, patience) if free else []
            leased = time.monotonic()
            fetched = self._fetched(groups)
            self._ask(fetched)
            held += fetched
            self._collect()
            learned = self._learn()
            held = self._deliver(held)
            if groups or learned:
                self._waited_s += leased - asked
                self._busy_s += time.monotonic() - leased
            else:
                self._stopping.wait(_POLL_S if held else 0.0)
                self._waited_s += time.monotonic() - asked

    def stop(self) -> None:
        self._stopping.set()

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """Records for a caller instead of the buffer (evaluation), under the present version. Does not touch the statistics."""
        with self._lock:
            return self._records(trajectories, update=False)

    def save(self, folder: Path) -> None:
        """Weights, optimiser, labels, statistics and the place in the label store; whole or not at all."""
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with self._lock:
            self._fitter.save(part)
            state = {"cursor": self._cursor, "asked": self._asked, "labels": self._labels}
        (part / _STATE).write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)

    def load(self, folder: Path) -> None:
        """Raises `CheckpointError` for the state of another model."""
        with self._lock:
            self._fitter.load(folder)
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            self._cursor, self._asked, self._labels = state["cursor"], state["asked"], state["labels"]

    def save_pretrained(self, folder: Path) -> None:
        """The network as a checkpoint of its own, where its kind has one."""
        if hasattr(self._fitter.network, "save_pretrained"):
            with self._lock:
                self._fitter.network.save_pretrained(folder)

    def stats(self) -> dict[str, Any]:
        """As `RewardWorker.stats`, and ``model``: the fitter's metrics."""
        model = self._fitter.metrics() | {"asked": float(self._asked), "arrived": float(self._labels), "owed": float(self._fitter.owed)}
        return {
            "busy_s": self._busy_s,
            "waited_s": self._waited_s,
            "groups": self._groups,
            "scored": self._scored,
            "failed": self._failed.total(),
            "failed_by_reason": dict(self._failed),
            "rss_bytes": resident_bytes(),
            "model": model,
        }

    # ---- learning

    @property
    def _usable(self) -> bool:
        return self._fitter.ready or not self._settings.online

    def _ask(self, held: Sequence[_Held]) -> None:
        """Offers questions about new groups. An annotator that is away loses them: there will be other groups."""
        if self._annotator is None or not held:
            return
        questions = [question for group in held for question in self._questions(group.trajectories)]
        try:
            if self._settings.objective == "ranking":
                self._annotator.offer_pairs(questions)
            else:
                self._annotator.ask(questions)
        except (RoleFailed, DeadlineExceeded):
            return
        self._asked += len(questions)

    def _questions(self, trajectories: Sequence[Trajectory]) -> list[Question]:
        texts, count = [t.text for t in trajectories], self._settings.questions_per_group
        rng = np.random.default_rng([self._seed, trajectories[0].ordinal])
        heads = None
        if self._settings.choose == "uncertainty" and self._fitter.ready:
            with self._lock:
                heads = self._fitter.heads([full_text(t) for t in trajectories])
        context = trajectories[0].prompt_text
        if self._settings.objective == "ranking":
            return [Question((texts[a], texts[b]), context) for a, b in choose_pairs(texts, heads, count, rng)]
        return [Question((texts[i],), context) for i in choose_singles(texts, heads, count, rng)]

    def _collect(self) -> None:
        """Takes in what was labelled since the last look."""
        if self._annotator is None:
            return
        try:
            cursor, annotations = self._annotator.labels_since(self._cursor, _LABELS_AT_ONCE)
        except (RoleFailed, DeadlineExceeded):
            return
        with self._lock:
            found = [example for example in map(to_example, annotations) if isinstance(example, self._fitter.objective.example)]
            self._fitter.add(found)
            self._labels += len(found)
            self._cursor = cursor

    def _learn(self) -> bool:
        if not self._fitter.pending:
            return False
        with self._lock:
            learned = self._fitter.fit(_SLICE)
        if self._folder is not None and self._is_save_due():
            self.save(self._folder)
            self._saved_at, self._saved_version = time.monotonic(), self._fitter.version
        return learned

    def _is_save_due(self) -> bool:
        """After a fit that is complete, but not all the time; the first one at once."""
        news = not self._fitter.owed and self._fitter.version > self._saved_version
        return news and (not self._saved_version or time.monotonic() - self._saved_at > _SAVE_EVERY_S)

    # ---- scoring

    def _fetched(self, groups: Sequence[GroupInfo]) -> list[_Held]:
        found, lost = [], {}
        for group in groups:
            try:
                found.append(_Held(group, arrow.decode(self._store.get(group.payload, timeout_s=self._fetch_s)), time.monotonic()))
            except RayrlError as e:
                lost[group.ordinal] = [self._failures(f"payload lost: {e}") for _ in group.lengths]
        if lost:
            self._put(lost)
        return found

    def _deliver(self, held: list[_Held]) -> list[_Held]:
        """Hands in what can be scored, and what cannot wait any longer; returns the rest."""
        now = time.monotonic()
        if self._usable:
            trajectories = [t for group in held for t in group.trajectories]
            with self._lock:
                records = iter(self._records(trajectories, update=True))
            self._put({group.info.ordinal: [next(records) for _ in group.trajectories] for group in held})
            return []
        late = [group for group in held if now - group.since >= self._deadline_s]
        error = f"not ready: no version within {self._deadline_s:g} s ({len(self._fitter.examples)} labels)"
        self._put({group.info.ordinal: [self._failures(error) for _ in group.trajectories] for group in late})
        return [group for group in held if group not in late]

    def _records(self, trajectories: Sequence[Trajectory], update: bool) -> list[list[RewardRecord]]:
        if not self._usable:
            return [self._failures("not ready: nothing was learned yet") for _ in trajectories]
        started = time.monotonic()
        values = self._values([full_text(t) for t in trajectories], update)
        provenance = {
            "producer": self._name,
            "producer_version": str(self._fitter.version),
            "latency_s": (time.monotonic() - started) / max(1, len(trajectories)),
        }
        return [
            [
                RewardRecord(name, RewardStatus.SCORED, float(values[name][i]) if applies(component, t) else 0.0, **provenance)
                for name, component in self._components.items()
            ]
            for i, t in enumerate(trajectories)
        ]

    def _values(self, texts: Sequence[str], update: bool) -> dict[str, FloatArray]:
        """float32[N] per component: the mean over heads, or what one head (or pass) says, all on the scale of the mean."""
        mean, stats, scaled = self._fitter.score(texts).value, self._fitter.stats, self._settings.normalize
        if scaled:
            mean = self._fitter.normalized(mean) if update else stats.normalize(mean)
        components = self._components.values()
        single = self._fitter.estimates(texts) if any(c.head is not None and not c.deviation for c in components) else None
        spread = self._fitter.deviations(texts) if any(c.deviation for c in components) else None
        found: dict[str, FloatArray] = {}
        for name, component in self._components.items():
            if component.head is None:
                found[name] = mean
            elif component.deviation:
                found[name] = spread[:, component.head] / (max(stats.variance, 1e-8) ** 0.5 if scaled else 1.0)
            else:
                own = single[:, component.head]
                found[name] = stats.normalize(own) if scaled else own
        return found

    def _failures(self, error: str) -> list[RewardRecord]:
        return [RewardRecord(name, RewardStatus.FAILED, error=error, producer=self._name) for name in self._components]

    def _put(self, rewards: dict[int, list[list[RewardRecord]]]) -> None:
        if not rewards:
            return
        self._buffer.put_rewards(self._name, rewards)
        self._groups += len(rewards)
        for record in (r for samples in rewards.values() for sample in samples for r in sample):
            if record.status is RewardStatus.SCORED:
                self._scored += 1
            else:
                self._failed[record.error.partition(":")[0]] += 1


def applies(component: RewardComponent, trajectory: Trajectory) -> bool:
    return component.tasks is None or trajectory.task in component.tasks


def full_text(trajectory: Trajectory) -> str:
    """What the model reads: the prompt and what was answered."""
    return trajectory.prompt_text + trajectory.text


def to_example(annotation: Annotation) -> Example | None:
    """A label as something to learn from; None for kinds that no reward model learns from."""
    question, context = annotation.question, annotation.question.context
    if annotation.kind is QuestionKind.PAIR:
        first, second = (context + text for text in question.texts)
        return Pair(first, second, annotation.label, group=context) if first != second else None
    if annotation.kind in (QuestionKind.SCORE, QuestionKind.CLASS):
        return Label(context + question.texts[0], annotation.label, group=context)
    return None
