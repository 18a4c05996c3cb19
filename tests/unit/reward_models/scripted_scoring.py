"""A buffer, a store and an annotator as a reward model's worker sees them, all in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from rayrl.annotations import Annotation, Question, QuestionKind, QuestionState
from rayrl.data import arrow
from rayrl.errors import RoleFailed
from rayrl.types import FinishReason, GroupInfo, RewardRecord, Trajectory, VersionSpan


def trajectory(ordinal: int, sample: int, prompt: str, text: str, task: str = "default") -> Trajectory:
    return Trajectory(
        id=f"{ordinal}/{sample}",
        ordinal=ordinal,
        sample=sample,
        token_ids=np.arange(4, dtype=np.int32),
        action_mask=np.arange(4) >= 2,
        behavior_logprobs=np.zeros(4, np.float32),
        version_spans=(VersionSpan(0, 2, 4),),
        turns=((2, 4),),
        finish_reason=FinishReason.STOP,
        task=task,
        text=text,
        prompt_text=prompt,
    )


class ScriptedBuffer:
    """Hands out groups once; `answered` is set when all of them came back."""

    def __init__(self, groups: dict[int, list[Trajectory]]) -> None:
        self.payloads, self.waiting = groups, sorted(groups)
        self.rewards: dict[int, list[list[RewardRecord]]] = {}
        self.answered = threading.Event()
        self.gone: set[int] = set()

    def lease_unscored(self, scorer, component, max_groups, wait_s):
        leased, self.waiting = self.waiting[:max_groups], self.waiting[max_groups:]
        if not leased:
            threading.Event().wait(min(wait_s, 0.01))
        ones = lambda o: np.ones(len(self.payloads[o]), np.int32)
        return [GroupInfo(o, o, 1, ones(o), ones(o), 0, 0) for o in leased]

    def put_rewards(self, scorer, rewards):
        self.rewards |= rewards
        if len(self.rewards) == len(self.payloads):
            self.answered.set()

    def still_ready(self, ordinals):
        return [o for o in ordinals if o in self.rewards and o not in self.gone]

    def revise_rewards(self, rewards):
        self.rewards |= rewards
        return list(rewards)

    def still_unscored(self, ordinals):
        return [o for o in ordinals if o not in self.gone]

    def get(self, ref, *, timeout_s):
        if self.payloads[ref] is None:
            raise RoleFailed("the object was lost")
        return arrow.encode(self.payloads[ref])


class ScriptedAnnotator:
    """Answers by a function of a question; None is no answer yet. Keeps a log that `labels_since` reads."""

    def __init__(self, answer: Callable[[Question], float | None], kind: QuestionKind = QuestionKind.PAIR) -> None:
        self.answer, self.kind = answer, kind
        self.log: list[Annotation] = []
        self.asked: list[Question] = []
        self.away = False

    def offer_pairs(self, pairs):
        self._present()
        return sum(self._take(q) is not None for q in pairs)

    def ask(self, questions, template=None, wait_s=0.0):
        self._present()
        return [self._take(q) for q in questions]

    def labels_since(self, cursor=0, limit=1000):
        self._present()
        found = self.log[cursor : cursor + limit]
        return cursor + len(found), [a for a in found if a.state is QuestionState.LABELLED]

    def _present(self) -> None:
        if self.away:
            raise RoleFailed("the annotator is being restarted")

    def _take(self, question: Question) -> Annotation | None:
        known = next((a for a in self.log if a.question == question), None)
        if known is not None:
            return known
        self.asked.append(question)
        value = self.answer(question)
        if value is None:
            return None
        good = np.isfinite(value)
        self.log.append(
            Annotation(
                id=len(self.log) + 1,
                key=f"{len(self.log):032x}",
                kind=self.kind,
                question=question,
                items=(),
                state=QuestionState.LABELLED if good else QuestionState.FAILED,
                values=(value,) if good else (),
                error="" if good else "malformed: no tag",
                template="t" * 32,
                model="scripted",
            )
        )
        return self.log[-1]
