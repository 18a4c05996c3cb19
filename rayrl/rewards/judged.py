"""A judge's scores as rewards: leases groups, asks the annotator about every sample, hands in what is answered.

A template that rates one text gives a sample its score or class. One that compares two is asked about every pair of samples of a
prompt, and the value is the sample's win rate (Pref-GRPO, arXiv 2508.20751). One that ranks is asked about all samples of a prompt at
once: the best has 1, the worst 0. One that rates steps gives each step its own value, and the sample their sum.

Many groups wait for their answers side by side, so a slow answer holds up its own group alone, and none longer than ``deadline_s``:
what is missing then has failed, and ``rewards.on_failure`` decides. With ``patient`` a late answer is waited for as long as the
buffer still wants the group.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from rayrl.annotations import Annotation, Question, QuestionKind, QuestionState
from rayrl.config.schema import RewardComponent
from rayrl.data.steps import split_steps
from rayrl.errors import DeadlineExceeded, RoleFailed
from rayrl.protocols import Annotator, ReplayBuffer, Store
from rayrl.scoring import Leased, ScoringJob
from rayrl.types import RewardRecord, RewardStatus, Trajectory

_IDLE_S, _POLL_S = 1.0, 0.25
NOT_APPLICABLE = "not applicable"
LATE = "late"


Place = tuple[str, tuple[int, ...]]
"""What one question is about: a component, and the samples in question."""


@dataclass(eq=False)
class _Waiting(Leased):
    """A group on its way through the judge."""

    found: dict[Place, Annotation] = field(default_factory=dict)
    """Final annotations."""


class JudgeWorker:
    """``run`` works until ``stop``, both callable from different threads; ``components`` are those with a judge."""

    def __init__(
        self,
        name: str,
        buffer: ReplayBuffer,
        store: Store,
        annotator: Annotator,
        components: Mapping[str, RewardComponent],
        job: str,
        *,
        deadline_s: float,
        patient: bool = False,
        max_groups: int = 64,
        fetch_s: float = 60.0,
        kinds: Mapping[str, QuestionKind] | None = None,
    ) -> None:
        """``kinds``: what the template of a component asks for; a score where it is not named."""
        self._components, self._buffer, self._annotator = dict(components), buffer, annotator
        self._job = ScoringJob(name, job, buffer, store, components, self._failure, fetch_s)
        self._deadline_s, self._patient, self._max_groups = deadline_s, patient, max_groups
        self._kinds = dict.fromkeys(components, QuestionKind.SCORE) | dict(kinds or {})
        self._stopping = threading.Event()

    def run(self) -> None:
        waiting: list[_Waiting] = []
        while not self._stopping.is_set():
            leased = self._job.lease(self._max_groups - len(waiting), 0.0 if waiting else _IDLE_S)
            waiting += [_Waiting(group.ordinal, group.trajectories) for group in leased]
            if not waiting:
                continue
            started = time.monotonic()
            self._ask(waiting, _POLL_S)
            now = time.monotonic()
            ready = [w for w in waiting if self._is_complete(w) or (not self._patient and now - w.since >= self._deadline_s)]
            self._job.put({w.ordinal: self._records(w) for w in ready})
            waiting = self._still_wanted([w for w in waiting if w not in ready], now)
            self._job.busy_s += time.monotonic() - started

    def stop(self) -> None:
        """Makes `run` return; the questions go on, and their answers are there for whoever leases the groups next."""
        self._stopping.set()

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """Records for a caller instead of the buffer (evaluation); waits for the judge at most ``deadline_s``."""
        waiting, limit = _Waiting(-1, list(trajectories)), time.monotonic() + self._deadline_s
        while not self._is_complete(waiting) and time.monotonic() < limit and not self._stopping.is_set():
            self._ask([waiting], min(_IDLE_S, max(0.0, limit - time.monotonic())))
        return self._records(waiting)

    def stats(self) -> dict[str, Any]:
        """See `ScoringJob.stats`."""
        return self._job.stats()

    # ---- inside

    def _asked(self, waiting: _Waiting) -> list[Place]:
        """What a judge must answer. Samples of one prompt that say the same are never held against each other."""
        asked: list[Place] = []
        for name, kind in self._kinds.items():
            applicable = [i for i, t in enumerate(waiting.trajectories) if self._applies(name, t)]
            if kind is QuestionKind.PAIR:
                asked += [(name, pair) for pair in self._pairs(waiting, applicable)]
            elif kind is QuestionKind.RANKING:
                asked += [(name, members) for members in self._lists(waiting, applicable)]
            else:
                asked += [(name, (i,)) for i in applicable if kind is not QuestionKind.STEPS or self._steps(name, waiting.trajectories[i])]
        return asked

    def _question(self, waiting: _Waiting, place: Place) -> Question:
        name, members = place
        first = waiting.trajectories[members[0]]
        texts = self._steps(name, first) if self._kinds[name] is QuestionKind.STEPS else [waiting.trajectories[i].text for i in members]
        return Question(tuple(texts), first.prompt_text)

    def _steps(self, name: str, trajectory: Trajectory) -> list[str]:
        component = self._components[name]
        return [trajectory.text[start:end].strip() for start, end in split_steps(trajectory.text, component.separator)]

    def _applies(self, name: str, trajectory: Trajectory) -> bool:
        return (tasks := self._components[name].tasks) is None or trajectory.task in tasks

    @staticmethod
    def _pairs(waiting: _Waiting, members: Sequence[int]) -> Iterator[tuple[int, int]]:
        found = waiting.trajectories
        return ((i, j) for i, j in combinations(members, 2) if found[i].ordinal == found[j].ordinal and found[i].text != found[j].text)

    @staticmethod
    def _lists(waiting: _Waiting, members: Sequence[int]) -> list[tuple[int, ...]]:
        """For each prompt the first sample of every text, where there are two texts or more."""
        firsts: dict[int, dict[str, int]] = {}
        for i in members:
            firsts.setdefault(waiting.trajectories[i].ordinal, {}).setdefault(waiting.trajectories[i].text, i)
        return [tuple(of.values()) for of in firsts.values() if len(of) > 1]

    def _is_complete(self, waiting: _Waiting) -> bool:
        return len(waiting.found) == len(self._asked(waiting))

    def _ask(self, waiting: Sequence[_Waiting], wait_s: float) -> None:
        """Looks for the answers that are missing, template by template; a restarting annotator has none."""
        for template in dict.fromkeys(c.judge for c in self._components.values()):
            missing = [
                (w, place)
                for w in waiting
                for place in self._asked(w)
                if place not in w.found and self._components[place[0]].judge == template
            ]
            if not missing:
                continue
            questions = [self._question(w, place) for w, place in missing]
            try:
                answers = self._annotator.ask(questions, template=template, wait_s=wait_s)
            except (RoleFailed, DeadlineExceeded):
                self._stopping.wait(_POLL_S)
                continue
            for (w, place), answer in zip(missing, answers, strict=True):
                if answer is not None:
                    w.found[place] = answer

    def _still_wanted(self, waiting: list[_Waiting], now: float) -> list[_Waiting]:
        """Without those that the buffer has dropped meanwhile: only groups past their deadline are asked for."""
        late = {w.ordinal for w in waiting if now - w.since >= self._deadline_s}
        kept = set(self._buffer.still_unscored(sorted(late))) if late else set()
        return [w for w in waiting if w.ordinal not in late or w.ordinal in kept]

    def _records(self, waiting: _Waiting) -> list[list[RewardRecord]]:
        lists = {place for place in self._asked(waiting) if self._kinds[place[0]] is QuestionKind.RANKING}
        return [[self._scored(name, i, waiting, lists) for name in self._components] for i in range(len(waiting.trajectories))]

    def _scored(self, name: str, sample: int, waiting: _Waiting, lists: Collection[Place]) -> RewardRecord:
        kind, trajectory = self._kinds[name], waiting.trajectories[sample]
        if not self._applies(name, trajectory):
            return RewardRecord(name, RewardStatus.SCORED, 0.0, producer=NOT_APPLICABLE)
        if kind is QuestionKind.PAIR:
            return self._win_rate(name, sample, waiting)
        if kind is QuestionKind.RANKING:
            return self._place(name, sample, waiting, lists)
        if kind is QuestionKind.STEPS and not self._steps(name, trajectory):
            return RewardRecord(name, RewardStatus.SCORED, 0.0, (), producer=NOT_APPLICABLE)
        return self._record(name, waiting.found.get((name, (sample,))), kind is QuestionKind.STEPS)

    def _place(self, name: str, sample: int, waiting: _Waiting, lists: Collection[Place]) -> RewardRecord:
        """``1 - rank / (texts - 1)``; where all samples say the same nobody was asked, and each has 1/2."""
        own = waiting.trajectories[sample]
        for place in lists:
            texts = [waiting.trajectories[i].text for i in place[1]]
            if place[0] == name and waiting.trajectories[place[1][0]].ordinal == own.ordinal:
                record, answer = self._record(name, waiting.found.get(place), False), waiting.found.get(place)
                if answer is None or not answer.values:
                    return record
                return replace(record, value=1.0 - answer.values[texts.index(own.text)] / (len(texts) - 1))
        return RewardRecord(name, RewardStatus.SCORED, 0.5, producer=NOT_APPLICABLE)

    def _win_rate(self, name: str, sample: int, waiting: _Waiting) -> RewardRecord:
        """``mean over siblings of 1 [better] + 1/2 [tie]``; equal texts are a tie that nobody is asked about, and a comparison without
        an answer is not made. A sample that was compared with none has no score."""
        own = waiting.trajectories[sample]
        won, answers, reasons = [], list[Annotation](), list[str]()
        for other, sibling in enumerate(waiting.trajectories):
            if other == sample or sibling.ordinal != own.ordinal or not self._applies(name, sibling):
                continue
            if sibling.text == own.text:
                won.append(0.5)
                continue
            answer = waiting.found.get((name, (min(sample, other), max(sample, other))))
            if answer is None or answer.state is not QuestionState.LABELLED:
                reasons.append(answer.error if answer else f"{LATE}: no answer within {self._deadline_s:g} s")
                continue
            won.append(answer.label if sample < other else 1 - answer.label)
            answers.append(answer)
        if not won:
            return self._failure(name, reasons[0] if reasons else "alone: a win rate needs another sample of the prompt")
        last = answers[-1] if answers else None
        return RewardRecord(
            name,
            RewardStatus.SCORED,
            sum(won) / len(won),
            producer=last.model if last else self._components[name].judge or "",
            producer_version=last.template[:12] if last else "",
            latency_s=max((a.latency_s for a in answers), default=0.0),
            cost_usd=sum(a.cost_usd for a in answers) / 2,  # each comparison belongs to two samples
        )

    def _record(self, name: str, answer: Annotation | None, stepwise: bool) -> RewardRecord:
        if answer is None:
            return self._failure(name, f"{LATE}: no answer within {self._deadline_s:g} s")
        provenance = {
            "producer": answer.model,
            "producer_version": f"{answer.template[:12]}/{answer.key[:12]}",
            "latency_s": answer.latency_s,
            "cost_usd": answer.cost_usd,
        }
        if answer.state is not QuestionState.LABELLED:
            return RewardRecord(name, RewardStatus.FAILED, error=answer.error, **provenance)
        if stepwise:
            return RewardRecord(name, RewardStatus.SCORED, math.fsum(answer.values), tuple(answer.values), **provenance)
        return RewardRecord(name, RewardStatus.SCORED, answer.label, **provenance)

    def _failure(self, name: str, error: str) -> RewardRecord:
        return RewardRecord(name, RewardStatus.FAILED, error=error, producer=self._components[name].judge or "")
