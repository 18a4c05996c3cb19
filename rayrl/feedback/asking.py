"""One attempt at one question: render, ask, parse. A pair is asked in both orders, and a contradiction is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from rayrl.annotations import JudgeAnswer, Question, QuestionKind
from rayrl.config.schema import FeedbackConfig
from rayrl.feedback.judges.base import JudgeError
from rayrl.feedback.limits import Budget
from rayrl.feedback.outcome import Outcome
from rayrl.feedback.parsers import Unreadable, read
from rayrl.feedback.templates import Template
from rayrl.protocols import Judge
from rayrl.types import SamplingParams

_CHAT_TOKENS = 64
"""At most, for what a chat template adds around the messages."""


@dataclass(frozen=True)
class Asker:
    judge: Judge
    settings: FeedbackConfig
    budget: Budget

    def orders(self, question: Question, template: Template) -> list[Question]:
        """What is sent: the question itself, and a pair also the other way round."""
        if template.kind is QuestionKind.PAIR and self.settings.pairs.swap:
            return [question, Question(question.texts[::-1], question.context)]
        return [question]

    def most_tokens(self, question: Question, template: Template) -> tuple[int, int]:
        """Most prompt and completion tokens that an attempt can take: no tokenizer makes more than one token of a byte."""
        orders = self.orders(question, template)
        return sum(self._prompt_tokens(order, template) for order in orders), self.settings.sampling.max_tokens * len(orders)

    async def attempt(self, question: Question, template: Template) -> Outcome:
        """Never raises for anything that a judge does."""
        started, orders = time.monotonic(), self.orders(question, template)
        answers = await asyncio.gather(*(self._ask(order, template) for order in orders), return_exceptions=True)
        used = [self._used(answer, order, template) for answer, order in zip(answers, orders, strict=True)]
        prompt, completion = sum(p for p, _ in used), sum(c for _, c in used)
        good = [a for a in answers if isinstance(a, JudgeAnswer)]
        seen: dict[str, Any] = {
            "raw_answers": tuple(a.text for a in good),
            "latency_s": time.monotonic() - started,
            "tokens": prompt + completion,
            "cost_usd": self.budget.cost(prompt, completion),
        }
        for answer in answers:
            if isinstance(answer, JudgeError):
                error = f"{answer.kind}: {answer}"
                return Outcome((), error, **seen, counts=not answer.is_servers_fault, retry=answer.retry, pause_s=answer.pause_s)
            if isinstance(answer, BaseException):
                raise answer
        try:
            return Outcome(self._values(good, question, template), **seen)
        except Unreadable as e:
            return Outcome((), str(e), **seen)

    def _used(self, answer: object, order: Question, template: Template) -> tuple[int, int]:
        """Prompt and completion tokens. What nobody tells (a server without usage, an answer that came too late) counts as the most."""
        if isinstance(answer, JudgeAnswer) and (answer.prompt_tokens or answer.completion_tokens):
            return answer.prompt_tokens, answer.completion_tokens
        if isinstance(answer, JudgeAnswer) or (isinstance(answer, JudgeError) and answer.kind == "timeout"):
            return self._prompt_tokens(order, template), self.settings.sampling.max_tokens
        return 0, 0

    def _prompt_tokens(self, order: Question, template: Template) -> int:
        messages = template.messages(order, template.goal_sentence(self.settings.goal))
        return sum(len(m["content"].encode()) + _CHAT_TOKENS for m in messages)

    async def _ask(self, question: Question, template: Template) -> JudgeAnswer:
        s = self.settings.sampling
        sampling = SamplingParams(s.max_tokens, s.temperature, s.top_p, stop=tuple(s.stop))
        messages = template.messages(question, template.goal_sentence(self.settings.goal))
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                return await self.judge.answer(messages, sampling, self.settings.deadline_s)
        except TimeoutError:
            raise JudgeError("timeout", f"no answer within {self.settings.deadline_s:g} s", "raise feedback.deadline_s") from None

    def _values(self, answers: list[JudgeAnswer], question: Question, template: Template) -> tuple[float, ...]:
        values = [read(a.text, template, len(question.texts), a.cut_off) for a in answers]
        if len(values) == 1:
            return values[0]
        first, second = values[0][0], 1.0 - values[1][0]
        if first != second and self.settings.pairs.inconsistent == "failed":
            raise Unreadable("contradictory", f"the two orders give {first:g} and {second:g} for the first text")
        return (first,) if first == second else (0.5,)
