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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rayrl.annotations import Annotation, Question, QuestionKind
from rayrl.config.schema import RewardComponent, RewardModelConfig
from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.protocols import Annotator, ReplayBuffer, Store
from rayrl.reward_models.examples import Example, Label, Pair, Ranked
from rayrl.reward_models.fitter import Fitter
from rayrl.reward_models.questions import choose_pairs, choose_singles
from rayrl.scoring import Leased, ScoringJob
from rayrl.types import FloatArray, RewardRecord, RewardStatus, Trajectory

_IDLE_S, _POLL_S = 0.5, 0.05
_SLICE = 4
"""Gradient steps between two looks at what waits to be scored."""
_LABELS_AT_ONCE = 1000
_SAVE_EVERY_S = 20.0
_RESCORED = 256
"""Groups remembered after they were scored: more than wait for a batch under any sensible staleness."""
_STATE = "worker.json"


@dataclass(eq=False)
class _Held(Leased):
    """A group on its way through the model."""

    due: int = 0
    """Gradient steps that the model must have made before it scores this group."""


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
        failure = lambda component, error: RewardRecord(component, RewardStatus.FAILED, error=error, producer=name)
        self._job = ScoringJob(name, name, buffer, store, components, failure, fetch_s)
        self._name, self._annotator, self._max_groups = name, annotator, max_groups
        self._fitter, self._settings, self._components = fitter, settings, components
        self._deadline_s, self._folder, self._seed = deadline_s, folder, seed
        self._lock = threading.Lock()
        """Guards the fitter, the cursor and the counters that are saved."""
        self._cursor = self._asked = self._labels = 0
        self._given: list[Leased] = []
        """Groups handed in that may be scored again."""
        self._stopping = threading.Event()
        self._saved_at, self._saved_version = time.monotonic(), 0
        if folder is not None and (folder / _STATE).is_file():
            self.load(folder)

    def run(self) -> None:
        held: list[_Held] = []
        while not self._stopping.is_set():
            patience = 0.0 if held or self._fitter.pending else _IDLE_S
            groups = self._job.lease(self._max_groups - len(held), patience)
            leased = time.monotonic()
            self._ask(groups)
            self._collect()
            due = self._fitter.updates + self._fitter.pending if self._settings.fit_before_scoring else 0
            held += [_Held(group.ordinal, group.trajectories, group.since, due) for group in groups]
            learned = self._learn()
            if learned and self._settings.rescore and not self._fitter.owed:
                self._rescore()
            held = self._deliver(held)
            if groups or learned:
                self._job.busy_s += time.monotonic() - leased
            else:
                self._stopping.wait(_POLL_S if held else 0.0)
                self._job.waited_s += time.monotonic() - leased

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
        """See `ScoringJob.stats`; and ``model``: the fitter's metrics."""
        model = self._fitter.metrics() | {
            "asked": float(self._asked),
            "arrived": float(self._labels),
            "owed": float(self._fitter.owed),
            "rescored": float(self._job.rescored),
        }
        return self._job.stats() | {"model": model}

    # ---- learning

    @property
    def _usable(self) -> bool:
        return self._fitter.ready or not self._settings.online

    def _ask(self, held: Sequence[Leased]) -> None:
        """Offers questions about new groups. An annotator that is away loses them: there will be other groups."""
        if self._annotator is None or not held:
            return
        questions = [question for group in held for question in self._questions(group.trajectories)]
        try:
            if self._settings.objective == "ranking" and not self._settings.listwise:
                self._annotator.offer_pairs(questions)
            else:
                self._annotator.ask(questions)
        except (RoleFailed, DeadlineExceeded):
            return
        self._asked += len(questions)

    def _questions(self, trajectories: Sequence[Trajectory]) -> list[Question]:
        """What is held out is drawn at random: quality measured on what the model is unsure of would always look poor."""
        texts, count = [t.text for t in trajectories], self._settings.questions_per_group
        rng = np.random.default_rng([self._seed, trajectories[0].ordinal])
        heads, context = None, trajectories[0].prompt_text
        if self._settings.choose == "uncertainty" and self._fitter.ready and not self._fitter.examples.holds_out(context):
            with self._lock:
                heads = self._fitter.heads([full_text(t) for t in trajectories])
        if self._settings.listwise:
            chosen = sorted(choose_singles(texts, heads, count, rng))
            return [Question(tuple(texts[i] for i in chosen), context)] if len(chosen) > 1 else []
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
            found = [e for annotation in annotations for e in to_examples(annotation) if isinstance(e, self._fitter.objective.example)]
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

    def _deliver(self, held: list[_Held]) -> list[_Held]:
        """Hands in what can be scored, and what cannot wait any longer; returns the rest."""
        late = [group for group in held if time.monotonic() - group.since >= self._deadline_s]
        if self._usable:
            ready = [group for group in held if self._fitter.updates >= group.due or group in late]
            trajectories = [t for group in ready for t in group.trajectories]
            with self._lock:
                records = iter(self._records(trajectories, update=True))
            self._job.put({group.ordinal: [next(records) for _ in group.trajectories] for group in ready})
            if self._settings.rescore:
                self._given = [*self._given, *ready][-_RESCORED:]
            return [group for group in held if group not in ready]
        error = f"not ready: no version within {self._deadline_s:g} s ({len(self._fitter.examples)} labels)"
        self._job.put({group.ordinal: [self._job.failures(error) for _ in group.trajectories] for group in late})
        return [group for group in held if group not in late]

    def _rescore(self) -> None:
        """The model learned: what waits for a batch is rewarded by what it knows now."""
        self._given = self._job.revise(self.score, self._given)

    def _records(self, trajectories: Sequence[Trajectory], update: bool) -> list[list[RewardRecord]]:
        if not self._usable:
            return [self._job.failures("not ready: nothing was learned yet") for _ in trajectories]
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
        if not self._fitter.trusted:  # nobody is better than anybody else: nothing is taught
            return dict.fromkeys(self._components, np.zeros(len(texts), np.float32))
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


def applies(component: RewardComponent, trajectory: Trajectory) -> bool:
    return component.tasks is None or trajectory.task in component.tasks


def full_text(trajectory: Trajectory) -> str:
    """What the model reads: the prompt and what was answered."""
    return trajectory.prompt_text + trajectory.text


def to_examples(annotation: Annotation) -> list[Example]:
    """A label as something to learn from. A ranking is one as a whole, and all the comparisons that it implies; rated steps teach no
    reward model."""
    question, context = annotation.question, annotation.question.context
    texts = [context + text for text in question.texts]
    if annotation.kind is QuestionKind.PAIR:
        return [Pair(texts[0], texts[1], annotation.label, group=context)] if texts[0] != texts[1] else []
    if annotation.kind is QuestionKind.RANKING:
        order = [text for _, text in sorted(zip(annotation.values, texts, strict=True))]
        if len(set(order)) != len(order):
            return []
        implied: list[Example] = [Pair(better, worse, 1.0, group=context) for better, worse in combinations(order, 2)]
        return [*implied, Ranked(tuple(order), group=context)]
    if annotation.kind in (QuestionKind.SCORE, QuestionKind.CLASS):
        return [Label(texts[0], annotation.label, group=context)]
    return []
